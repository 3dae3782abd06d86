/** Decisions are kept with what they led to, in the transaction that carries them out, and come back as they were. */
import { describe, expect } from 'vitest';
import { parseAuditEvent } from '#server/domain/audit.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import type { OpenStore } from './contract.ts';
import { digest, enrolFleet, id, kindsOf, line, offer, planned, rollout, save, T0 } from './records.ts';
import { storeTest } from './with-store.ts';

const decision = (record: string, seed: number, onlyIfOffered = false) => ({
  record,
  sha256: digest(seed),
  at: T0 + seed,
  onlyIfOffered,
});
const decisionsOf = (store: Store, limit = 100) => store.listDecisions(id('r-1'), { limit });

export const describeDecisions = (open: OpenStore): void => {
  const test = storeTest(open);
  const withRollout = async (store: Store): Promise<void> => {
    await enrolFleet(store, ['gw-1', 'gw-2']);
    await store.createRollout(rollout('r-1'), [planned('r-1', 'gw-1'), planned('r-1', 'gw-2', { position: 1 })], []);
  };

  describe('decisions', () => {
    test('a decision is kept with what it led to, and the rollout and the log name it', async (store) => {
      await withRollout(store);
      const before = (await store.getAuditHead()).size;
      const offers = [offer('r-1', { decision: digest(1), atMost: 1 })];
      await save(store, 'r-1', { offers, decision: decision('one', 1), audit: [line('wave-opened')] });
      expect(await decisionsOf(store)).toEqual([
        {
          n: 1,
          at: T0 + 1,
          sha256: digest(1),
          record: 'one',
          offered: 1,
          skipped: 0,
          withdrawn: 0,
          blockers: [],
          auditFrom: before,
          auditTo: before + 2,
          pruned: null,
        },
      ]);
      expect((await store.getRollout(id('r-1')))?.decided).toBe(digest(1));
      expect((await kindsOf(store)).slice(before)).toEqual(['wave-opened', 'offered']);
      const [, offered] = await store.readAudit(before - 1, 2);
      expect(JSON.parse(offered!.payload)).toMatchObject({ kind: 'offered', decision: digest(1) });
    });

    test('what is not saved was not decided', async (store) => {
      await withRollout(store);
      const stale = { ...(await store.getRollout(id('r-1')))!, revision: 99 };
      expect(await save(store, 'r-1', { rollout: stale, decision: decision('one', 1) })).toEqual({
        result: 'conflict',
      });
      expect(await decisionsOf(store)).toEqual([]);
      expect(await store.getRollout(id('r-1'))).not.toHaveProperty('decided');
    });

    test('records of any length and likeness come back as they were, newest first, in pages', async (store) => {
      await withRollout(store);
      const long = Array.from({ length: 20_000 }, (_, n) => `${(n * 2_654_435_761) % 4_294_967_296}`).join();
      const records = ['', 'a', long, `${long}b`, 'quite another', `${long.slice(0, 60_000)}c`, 'ü'.repeat(500), long];
      for (const [index, record] of records.entries())
        await save(store, 'r-1', { decision: decision(record, index + 1) });
      const kept = await decisionsOf(store);
      expect(kept.map(({ n }) => n)).toEqual([8, 7, 6, 5, 4, 3, 2, 1]);
      expect(kept.map(({ record }) => record).reverse()).toEqual(records);
      const page = await store.listDecisions(id('r-1'), { before: 4, limit: 2 });
      expect(page.map(({ n, record }) => [n, record === records[n - 1]])).toEqual([
        [3, true],
        [2, true],
      ]);
    });

    test('of a rollout that is over the newest decision stays, and the log names those before it, once they are old', async (store) => {
      await withRollout(store);
      for (const seed of [1, 2, 3]) await save(store, 'r-1', { decision: decision(`decision ${seed}`, seed) });
      const prune = (before: number) => store.pruneDecisions(before, T0 + 50, 10);
      expect(await prune(T0 + 10)).toBe(0);
      const record = (await store.getRollout(id('r-1')))!;
      const over: RolloutRecord = { ...record, progress: { state: 'completed', at: T0 + 4 } };
      await save(store, 'r-1', { rollout: over, decision: decision('decision 4', 4) });
      // Something is still to come.
      expect(await prune(T0 + 10)).toBe(0);
      const rests = { ...over, revision: over.revision + 1, nextTickAt: null };
      await save(store, 'r-1', { rollout: rests });
      expect(await prune(T0 + 4)).toBe(0);
      const size = (await store.getAuditHead()).size;
      expect(await prune(T0 + 10)).toBe(3);
      expect(await decisionsOf(store)).toMatchObject([{ n: 4, record: 'decision 4', sha256: digest(4), pruned: size }]);
      const [said] = await store.readAudit(size - 1, 1);
      expect(parseAuditEvent(said!.payload)).toEqual({
        at: T0 + 50,
        by: 'server',
        kind: 'decisions-pruned',
        rollout: id('r-1'),
        decisions: 3,
        newest: digest(3),
      });
      expect(await prune(T0 + 10)).toBe(0);
      // As when it is recalled by someone much later.
      await save(store, 'r-1', { decision: decision('decision 5', 5) });
      expect((await decisionsOf(store)).map(({ n, record }) => [n, record])).toEqual([
        [5, 'decision 5'],
        [4, 'decision 4'],
      ]);
    });

    test('that no one was free is kept once, until someone is', async (store) => {
      await withRollout(store);
      await store.createRollout(rollout('r-2'), [planned('r-2', 'gw-1')], []);
      await save(store, 'r-2', { offers: [offer('r-2')] });
      await save(store, 'r-1', { offers: [offer('r-1', { atMost: 1 })] });
      const ask = (seed: number) =>
        save(store, 'r-1', { offers: [offer('r-1')], decision: decision(`asked ${seed}`, seed, true) });
      // Both devices are taken by now.
      await ask(1);
      await ask(2);
      const waiting = await decisionsOf(store);
      expect(waiting).toMatchObject([{ record: 'asked 1', offered: 0, blockers: [{ rollout: 'r-2', devices: 1 }] }]);
      await save(store, 'r-2', { withdraw: { reason: 'enough', planned: true } });
      await ask(3);
      await ask(4);
      expect(await decisionsOf(store)).toMatchObject([
        { n: 3, record: 'asked 4', offered: 0 },
        { n: 2, record: 'asked 3', offered: 1 },
        { n: 1 },
      ]);
    });
  });
};
