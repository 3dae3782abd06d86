/** Rollouts as they are kept, and what they offer to whom. */
import { describe, expect } from 'vitest';
import type { OpenStore } from './contract.ts';
import {
  device,
  digest,
  enrolFleet,
  id,
  kindsOf,
  lastLine,
  line,
  offer,
  outboxOf,
  plan,
  planned,
  RELEASED,
  report,
  rollout,
  running,
  save,
  T0,
} from './records.ts';
import { storeTest } from './with-store.ts';

export const describeOffers = (open: OpenStore): void => {
  const test = storeTest(open);

  describe('rollouts', () => {
    test('a rollout is kept as planned, and listed newest first', async (store) => {
      for (const name of ['r1', 'r2', 'r3']) await plan(store, name, []);
      expect(await store.getRollout(id('r1'))).toEqual(rollout('r1'));
      expect(await store.getRollout(id('r9'))).toBeUndefined();
      const names = async (after?: string) =>
        (await store.listRollouts({ after, limit: 2 })).map(({ plan }) => plan.id);
      expect(await names()).toEqual(['r3', 'r2']);
      expect(await names('r2')).toEqual(['r1']);
      const ofRelease = await store.listRolloutsOf(id('gateway'), '1.0.0');
      expect(ofRelease.map(({ plan }) => plan.id)).toEqual(['r3', 'r2', 'r1']);
      expect(await store.listRolloutsOf(id('gateway'), '1.0.1')).toEqual([]);
    });

    test('a save counts the revision up, and refuses a save of what was read before', async (store) => {
      await plan(store, 'r1', []);
      const first = { ...rollout('r1'), nextTickAt: T0 + 7 };
      const saveFirst = () =>
        store.saveRollout({
          rollout: first,
          offers: [],
          withdraw: null,
          replan: false,
          audit: [line('stepped')],
          now: T0,
        });
      expect(await saveFirst()).toEqual({ result: 'saved', offered: [], withdrawn: [], skipped: [] });
      expect(await store.getRollout(id('r1'))).toEqual({ ...first, revision: 1 });
      expect(await saveFirst()).toEqual({ result: 'conflict' });
      expect(await kindsOf(store)).toEqual(['rollout-planned', 'stepped']);
    });

    test('a rollout is due from its next tick on, the longest due first', async (store) => {
      for (const [name, at] of Object.entries({ r1: T0 + 2, r2: T0 + 1, r3: T0 + 3 }))
        await store.createRollout({ ...rollout(name), nextTickAt: at }, [], []);
      await store.createRollout({ ...rollout('r4'), nextTickAt: null }, [], []);
      const due = async (now: number, limit = 10) =>
        (await store.listDueRollouts(now, limit)).map(({ plan }) => plan.id);
      expect(await due(T0)).toEqual([]);
      expect(await due(T0 + 2)).toEqual(['r2', 'r1']);
      expect(await due(T0 + 9, 1)).toEqual(['r2']);
    });
  });

  describe('offers', () => {
    test('an offer makes the deployment, its device, the desired document, the outbox and the audit agree', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await plan(store, 'r1', ['gw-1']);
      expect(await save(store, 'r1', { offers: [offer('r1')], now: T0 + 5 })).toEqual({
        result: 'saved',
        offered: ['r1-gw-1'],
        withdrawn: [],
        skipped: [],
      });
      expect(await store.getDeployments([id('r1-gw-1')])).toEqual([
        planned('r1', 'gw-1', {
          state: 'offered',
          offeredAt: T0 + 5,
          stateAt: T0 + 5,
          deadlineAt: T0 + 60_000,
          revision: 1,
        }),
      ]);
      expect(await store.getDevice(id('gw-1'))).toMatchObject({ deployment: 'r1-gw-1', desiredSeq: 1 });
      const recorded = {
        device: 'gw-1',
        seq: 1,
        instruction: { ...offer('r1').instruction, deployment: 'r1-gw-1' },
        document: null,
        at: T0 + 5,
      };
      expect(await store.getDesired(id('gw-1'))).toEqual(recorded);
      expect(await store.getDesiredMany([id('gw-1'), id('gw-9')])).toEqual([recorded]);
      expect(await outboxOf(store)).toEqual([{ kind: 'publish-desired', devices: ['gw-1'] }]);
      expect(await lastLine(store)).toEqual({
        at: T0 + 5,
        by: 'server',
        kind: 'offered',
        rollout: 'r1',
        wave: 0,
        devices: ['gw-1'],
      });
    });

    test('connected devices come first, then the plan decides, and no more than asked for', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2', 'gw-3', 'gw-4']);
      await plan(store, 'r1', ['gw-1', 'gw-2', 'gw-3', 'gw-4']);
      await store.setOnline([{ device: id('gw-3'), online: true, boot: null, at: T0 }]);
      expect(await save(store, 'r1', { offers: [offer('r1', { atMost: 2 })] })).toMatchObject({
        offered: ['r1-gw-3', 'r1-gw-1'],
      });
      expect(await save(store, 'r1', { offers: [offer('r1', { atMost: 0 })] })).toMatchObject({ offered: [] });
      expect(await save(store, 'r1', { offers: [offer('r1')] })).toMatchObject({ offered: ['r1-gw-2', 'r1-gw-4'] });
    });

    test('an offer keeps to its wave, cohort and hardware, and to devices that were let in', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2', 'gw-3', 'gw-4']);
      await store.enrolDevice(device('gw-5'), null, T0, line('came'));
      await store.createRollout(
        rollout('r1'),
        [
          planned('r1', 'gw-1', { wave: 1 }),
          planned('r1', 'gw-2', { cohort: id('lab') }),
          planned('r1', 'gw-3', { compatible: id('gw3') }),
          planned('r1', 'gw-4'),
          planned('r1', 'gw-5'),
        ],
        [],
      );
      expect(await save(store, 'r1', { offers: [offer('r1')] })).toMatchObject({ offered: ['r1-gw-4'] });
    });

    test('two rollouts never own one device at once', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await plan(store, 'r1', ['gw-1']);
      await plan(store, 'r2', ['gw-1', 'gw-2']);
      await save(store, 'r1', { offers: [offer('r1')] });
      expect(await save(store, 'r2', { offers: [offer('r2')] })).toMatchObject({ offered: ['r2-gw-2'] });
      await save(store, 'r1', { withdraw: { reason: 'stopped', planned: false } });
      expect(await save(store, 'r2', { offers: [offer('r2')] })).toMatchObject({ offered: ['r2-gw-1'] });
      expect((await store.getDevice(id('gw-1')))?.deployment).toBe('r2-gw-1');
    });

    test('a device that runs exactly this manifest is skipped, no matter to which it is offered', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await store.saveReports([
        report('gw-1', 1, { running: running(RELEASED) }),
        report('gw-2', 1, { running: running(digest(501)) }),
      ]);
      await plan(store, 'r1', ['gw-1', 'gw-2']);
      expect(await save(store, 'r1', { offers: [offer('r1', { atMost: 0 })] })).toMatchObject({
        offered: [],
        skipped: ['r1-gw-1'],
      });
      expect(await lastLine(store)).toMatchObject({ kind: 'skipped', rollout: 'r1', devices: ['gw-1'] });
      expect((await store.getDevice(id('gw-1')))?.desiredSeq).toBe(0);
      expect(await save(store, 'r1', { offers: [offer('r1')] })).toMatchObject({ offered: ['r1-gw-2'], skipped: [] });
    });

    test('outbox lines and audit lines hold at most 500 devices', async (store) => {
      const names = Array.from({ length: 501 }, (_, index) => `gw-${index}`);
      await enrolFleet(store, names);
      await plan(store, 'r1', names);
      const before = (await store.getAuditHead()).size;
      await save(store, 'r1', { offers: [offer('r1', { atMost: 1000 })] });
      expect((await outboxOf(store)).map(({ devices }) => devices.length)).toEqual([500, 1]);
      expect((await store.getAuditHead()).size).toBe(before + 2);
    });
  });
};
