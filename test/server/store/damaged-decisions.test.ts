/**
 * Records whose bytes someone or a disk has changed: a rollout goes on, and each record that cannot be read any more
 * says so.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openInProcessStore } from '#server/store/sqlite/open.ts';
import type { Store } from '#server/store/store.ts';
import { digest, enrolFleet, id, planned, rollout, save, T0 } from './records.ts';

let dir = '';
let store: Store;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-store-'));
  store = openInProcessStore(join(dir, 'sluice.db'));
  await enrolFleet(store, ['gw-1']);
  await store.createRollout(rollout('r-1'), [planned('r-1', 'gw-1')], []);
});
afterEach(async () => {
  await store.close();
  await rm(dir, { recursive: true });
});

/** Alike, as those of one rollout are: all but the first are stored as what is different from it. */
const SAME = Array.from({ length: 200 }, (_, n) => `${(n * 2_654_435_761) % 4_294_967_296}`).join();
const decide = (n: number) =>
  save(store, 'r-1', {
    decision: { record: `${SAME}${n}`, sha256: digest(n), at: T0 + n, onlyIfOffered: false },
  });
const readable = async (): Promise<boolean[]> =>
  (await store.listDecisions(id('r-1'), { limit: 10 })).toReversed().map(({ record }) => record !== null);
const change = (statement: string): void => {
  const database = new Database(join(dir, 'sluice.db'));
  database.exec(statement);
  database.close();
};

test('a record that cannot be read is listed without it, and those beside it as they are', async () => {
  for (const n of [1, 2, 3]) await decide(n);
  change("UPDATE decisions SET record = x'ff00ff' WHERE n = 2");
  expect(await readable()).toEqual([true, false, true]);
  change("UPDATE decisions SET blockers = '[' WHERE n = 3");
  expect(await readable()).toEqual([true, false, false]);
  expect(await store.listDecisions(id('r-1'), { limit: 1 })).toMatchObject([{ n: 3, at: T0 + 3, sha256: digest(3) }]);
});

test.each(["UPDATE decisions SET record = x'ff00ff' WHERE n = 1", 'DELETE FROM decisions WHERE n = 1'])(
  'a rollout goes on deciding after %s, although others are read with that record',
  async (damage) => {
    for (const n of [1, 2]) await decide(n);
    change(damage);
    expect((await decide(3)).result).toBe('saved');
    expect((await readable()).slice(-2)).toEqual([false, true]);
  },
);

test.each(['DELETE FROM decisions WHERE n = 1', "UPDATE decisions SET record = x'ff00ff' WHERE n = 3"])(
  'what was done to decisions is not pruned away: %s',
  async (damage) => {
    for (const n of [1, 2, 3]) await decide(n);
    change("UPDATE rollouts SET progress = json_set(progress, '$.state', 'completed'), next_tick_at = NULL");
    change(damage);
    const before = await readable();
    expect(await store.pruneDecisions(T0 + 10, T0 + 10, 10)).toBe(0);
    expect(await readable()).toEqual(before);
  },
);
