/** Walks a paged list to its end without ever holding more than a page. */
import type { Page } from '../store/page.ts';

const PAGE_ITEMS = 1_000;

export async function* everyPage<T>(list: (page: Page) => Promise<T[]>, keyOf: (item: T) => string): AsyncGenerator<T> {
  let after: string | undefined;
  for (;;) {
    const items = await list({ after, limit: PAGE_ITEMS });
    yield* items;
    const last = items.at(-1);
    if (last === undefined || items.length < PAGE_ITEMS) return;
    after = keyOf(last);
  }
}
