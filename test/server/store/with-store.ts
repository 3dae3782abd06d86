import { test } from 'vitest';
import type { Store } from '#server/store/store.ts';

/** A test that gets a fresh store, closed afterwards whatever happens. */
export const storeTest =
  (open: () => Promise<Store>) =>
  (sentence: string, run: (store: Store) => Promise<void>): void => {
    // oxlint-disable-next-line vitest/valid-title, vitest/expect-expect -- both are the caller's
    test(sentence, async () => {
      const store = await open();
      try {
        await run(store);
      } finally {
        await store.close();
      }
    });
  };
