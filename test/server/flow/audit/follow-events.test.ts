import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { auditLine } from '#server/domain/audit.ts';
import { type Consumer, type Follower, followEvents, followPage } from '#server/flow/audit/follow-events.ts';
import { openInProcessStore } from '#server/store/sqlite/open.ts';
import type { Store } from '#server/store/store.ts';
import { Id } from '#shared/ids.ts';

const NAME = Id.parse('notices');
const WAITS = { lookMs: 60_000, retryMs: 1, retryMsMax: 2 };

let store: Store;
const open: Follower[] = [];
beforeEach(() => {
  store = openInProcessStore(':memory:');
});
afterEach(async () => {
  for (const follower of open.splice(0)) await follower.stop();
  await store.close();
});

const happen = async (...tags: number[]): Promise<void> =>
  store.appendAudit(
    tags.map((tag) => auditLine({ at: tag, by: 'ada', kind: 'device-accepted', device: Id.parse('gw-1') })),
  );
/** Collects when each event happened, which tells them apart. */
const collecting = (seen: number[], more: Partial<Consumer> = {}): Consumer => ({
  name: NAME,
  from: 'start',
  handle: async (page) => void seen.push(...page.map(({ event }) => event?.at ?? -1)),
  ...more,
});
const follow = (consumer: Consumer, onError: (error: unknown) => void = () => undefined): Follower => {
  const follower = followEvents({ store, onError, waits: WAITS }, consumer);
  open.push(follower);
  return follower;
};

test('everything that happened comes in order, once, and what happens later when it is woken', async () => {
  await happen(...Array.from({ length: 1_200 }, (_, index) => index));
  const seen: number[] = [];
  const follower = follow(collecting(seen));
  await vi.waitFor(() => expect(seen).toHaveLength(1_200));
  await happen(1_200);
  follower.wake();
  await vi.waitFor(() => expect(seen).toHaveLength(1_201));
  expect(seen).toEqual(Array.from({ length: 1_201 }, (_, index) => index));
});

test('after a restart a consumer goes on where it was, each by itself', async () => {
  await happen(1, 2);
  const [notices, webhooks]: [number[], number[]] = [[], []];
  await follow(collecting(notices)).stop();
  await happen(3);
  follow(collecting(notices));
  follow(collecting(webhooks, { name: Id.parse('webhooks') }));
  await vi.waitFor(() =>
    expect([notices, webhooks]).toEqual([
      [1, 2, 3],
      [1, 2, 3],
    ]),
  );
});

test('a consumer that begins now hears nothing of before, and all that happens from its first start on', async () => {
  await happen(1, 2);
  const seen: number[] = [];
  const now = collecting(seen, { from: 'now' });
  await follow(now).stop();
  await happen(3);
  follow(now);
  await vi.waitFor(() => expect(seen).toEqual([3]));
});

test('a page that could not be handled comes again, is told, and nothing overtakes it', async () => {
  await happen(1, 2);
  const seen: number[] = [];
  const told: unknown[] = [];
  let failures = 3;
  const consumer = collecting(seen, {
    handle: async (page) => {
      failures -= 1;
      if (failures >= 0) throw new Error('the mail server is down');
      seen.push(...page.map(({ index }) => index));
    },
  });
  const follower = follow(consumer, (error) => told.push(error));
  await happen(3);
  follower.wake();
  await vi.waitFor(() => expect(seen).toEqual([0, 1, 2]));
  expect(told.map(String)).toEqual(Array(3).fill('Error: the mail server is down'));
});

test('an event of a newer version is passed on as its text', async () => {
  await store.appendAudit([{ payload: '{"at":1,"by":"ada","kind":"from-the-future"}' }]);
  const seen: unknown[] = [];
  follow(collecting([], { handle: async (page) => void seen.push(...page) }));
  await vi.waitFor(() =>
    expect(seen).toEqual([{ index: 0, event: undefined, payload: '{"at":1,"by":"ada","kind":"from-the-future"}' }]),
  );
});

test('a damaged cursor is told, and nothing is handled from a place that was made up', async () => {
  await happen(1);
  await store.setMeta('cursor:notices', 'x');
  const seen: number[] = [];
  const told = await new Promise((resolve) => follow(collecting(seen), resolve));
  expect(String(told)).toBe('Error: the cursor of notices is no index: x');
  expect(seen).toEqual([]);
});

test('stopping waits for the page that is being handled, and begins no other', async () => {
  await happen(1);
  const { promise: handled, resolve: finish } = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  const follower = follow(
    collecting([], {
      handle: async () => {
        begun.resolve();
        await handled;
      },
    }),
  );
  await begun.promise;
  let stopped = false;
  const stopping = follower.stop().then(() => {
    stopped = true;
  });
  await happen(2);
  expect(stopped).toBe(false);
  finish();
  await stopping;
  expect(await store.getMeta('cursor:notices')).toBe('0');
});

describe('whatever crashes', () => {
  test('each event is handled at least once, and the first time of each in order', async () => {
    const lives = fc.array(fc.constantFrom('done', 'crash before', 'crash after'), { maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(lives, fc.integer({ min: 0, max: 3 }), async (fates, between) => {
        const fresh = openInProcessStore(':memory:');
        try {
          const seen: number[] = [];
          let at = 0;
          for (const fate of fates) {
            for (let more = 0; more <= between; more += 1) {
              await fresh.appendAudit([
                auditLine({ at, by: 'ada', kind: 'device-accepted', device: Id.parse('gw-1') }),
              ]);
              at += 1;
            }
            const consumer = collecting(
              seen,
              fate === 'crash before' ? { handle: () => Promise.reject(new Error()) } : {},
            );
            const dying = { ...fresh, setMeta: () => Promise.reject(new Error('killed')) };
            await followPage(fate === 'crash after' ? dying : fresh, consumer).catch(() => undefined);
          }
          while (await followPage(fresh, collecting(seen)));
          expect([...new Set(seen)]).toEqual(Array.from({ length: at }, (_, index) => index));
        } finally {
          await fresh.close();
        }
      }),
      { numRuns: 40 },
    );
  });
});
