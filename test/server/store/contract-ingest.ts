import { describe, expect } from 'vitest';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { Store } from '#server/store/store.ts';
import type { OpenStore } from './contract.ts';
import {
  desiredDocument,
  digest,
  enrolFleet,
  heartbeat,
  id,
  kindsOf,
  line,
  offer,
  planned,
  report,
  rollout,
  running,
  save,
  T0,
} from './records.ts';
import { storeTest } from './with-store.ts';

/** One device with an open offer, as it is stored. */
const offered = async (store: Store, name = 'gw-1', of = 'r1'): Promise<DeploymentRecord> => {
  if ((await store.getDevice(id(name))) === undefined) await enrolFleet(store, [name]);
  await store.createRollout(rollout(of), [planned(of, name)], []);
  await save(store, of, { offers: [offer(of)] });
  return (await store.getDeployments([id(`${of}-${name}`)]))[0]!;
};

export const describeIngest = (open: OpenStore): void => {
  const test = storeTest(open);

  describe('heartbeats', () => {
    test('the latest heartbeat of each device is what is known of it', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await store.saveHeartbeats([
        heartbeat('gw-1', T0 + 5, { running: running(), healthy: false }),
        heartbeat('gw-2', T0 + 6),
        heartbeat('gw-9', T0 + 7),
      ]);
      expect(await store.getDevice(id('gw-1'))).toMatchObject({
        boot: 'boot-1',
        running: running(),
        healthy: false,
        lastSeenAt: T0 + 5,
      });
      expect(await store.getDevice(id('gw-2'))).toMatchObject({ running: null, healthy: true });
      expect(await store.getDevice(id('gw-9'))).toBeUndefined();
    });

    test('a heartbeat that a report has overtaken changes nothing', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await store.saveReports([report('gw-1', 10, { running: running() })]);
      await store.saveHeartbeats([heartbeat('gw-1', T0 + 9, { boot: id('boot-0') })]);
      expect(await store.getDevice(id('gw-1'))).toMatchObject({ running: running(), boot: 'boot-1' });
    });

    test('heartbeats count again after the server clock was set back', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await store.saveHeartbeats([heartbeat('gw-1', T0 + 3_600_000)]);
      await store.saveHeartbeats([heartbeat('gw-1', T0, { healthy: false })]);
      expect(await store.getDevice(id('gw-1'))).toMatchObject({ healthy: false, lastSeenAt: T0 });
    });
  });

  describe('reports', () => {
    test('a report moves its device and its deployment together', async (store) => {
      const before = await offered(store);
      const next = { ...before, state: 'fetching' as const, acceptedAt: T0 + 1, stateAt: T0 + 1, deadlineAt: T0 + 999 };
      const attributes = { os: 'linux' };
      const saved = await store.saveReports([
        report('gw-1', 1, { floor: 3, attributes, running: running(), deployments: [next], audit: [line('moved')] }),
      ]);
      expect(saved).toEqual({ conflicts: [] });
      expect(await store.getDeployments([before.id])).toEqual([{ ...next, revision: before.revision + 1 }]);
      expect(await store.getDevice(id('gw-1'))).toMatchObject({
        reportSeq: 1,
        floor: 3,
        agent: '1.0.0',
        boot: 'boot-1',
        attributes,
        running: running(),
        lastSeenAt: T0 + 1,
        deployment: before.id,
      });
      expect((await kindsOf(store)).at(-1)).toBe('moved');
    });

    test('an error is kept with the deployment that it ended', async (store) => {
      const before = await offered(store);
      const error = { code: 'TRIAL_CRASHED' as const, message: 'exit code 1' };
      await store.saveReports([report('gw-1', 1, { deployments: [{ ...before, state: 'reverted', error }] })]);
      expect(await store.getDeployments([before.id])).toMatchObject([{ state: 'reverted', error }]);
    });

    test('every end frees the device', async (store) => {
      for (const [index, state] of (['committed', 'reverted', 'failed', 'withdrawn'] as const).entries()) {
        const before = await offered(store, 'gw-1', `r${index}`);
        expect((await store.getDevice(id('gw-1')))?.deployment).toBe(before.id);
        await store.saveReports([report('gw-1', index + 1, { deployments: [{ ...before, state }] })]);
        expect((await store.getDevice(id('gw-1')))?.deployment).toBeNull();
      }
    });

    // Found by the simulation: a device that lost its journal installed once more what had failed, in a rollout that
    // had halted.
    test('what failed on a device is not wanted of it any more, whatever it forgets', async (store) => {
      for (const state of ['failed', 'reverted'] as const) {
        const before = await offered(store, `gw-${state}`, `r-${state}`);
        await store.saveReports([report(`gw-${state}`, 1, { deployments: [{ ...before, state, deadlineAt: null }] })]);
        expect((await store.getDesired(before.device))?.instruction).toMatchObject({ kind: 'none' });
        const effects = (await store.takeOutbox(10)).map(({ effect }) => effect);
        expect(effects.at(-1)).toEqual({ kind: 'publish-desired', devices: [before.device] });
      }
      const kept = await offered(store, 'gw-1', 'r1');
      await store.saveReports([
        report('gw-1', 1, { deployments: [{ ...kept, state: 'committed', deadlineAt: null }] }),
      ]);
      expect((await store.getDesired(id('gw-1')))?.instruction).toMatchObject({ kind: 'install' });
    });

    test('a report that was seen before changes nothing', async (store) => {
      const before = await offered(store);
      await store.saveReports([report('gw-1', 5, { floor: 1 })]);
      const late = { floor: 9, deployments: [{ ...before, state: 'failed' as const }], audit: [line('lost')] };
      expect(await store.saveReports([report('gw-1', 5, late), report('gw-1', 4, late)])).toEqual({ conflicts: [] });
      expect(await store.getDevice(id('gw-1'))).toMatchObject({ floor: 1, reportSeq: 5 });
      expect(await store.getDeployments([before.id])).toEqual([before]);
      expect(await kindsOf(store)).not.toContain('lost');
    });

    test('a report whose deployment has moved is given back whole, and the others of its batch are kept', async (store) => {
      const before = await offered(store);
      await enrolFleet(store, ['gw-2']);
      await save(store, 'r1', { withdraw: { reason: 'halted', planned: false } });
      const stale = { ...before, state: 'fetching' as const };
      const saved = await store.saveReports([
        report('gw-1', 1, { deployments: [stale], audit: [line('lost')] }),
        report('gw-2', 1, { audit: [line('kept')] }),
      ]);
      expect(saved).toEqual({ conflicts: [before.id] });
      expect((await store.getDevice(id('gw-1')))?.reportSeq).toBe(0);
      expect((await store.getDevice(id('gw-2')))?.reportSeq).toBe(1);
      expect((await kindsOf(store)).at(-1)).toBe('kept');
      const [fresh] = await store.getDeployments([before.id]);
      const retried = [report('gw-1', 1, { deployments: [{ ...fresh!, state: 'trial' as const }] })];
      expect(await store.saveReports(retried)).toEqual({ conflicts: [] });
    });

    test('two reports of one device in one batch are applied in order when the second builds on the first', async (store) => {
      const before = await offered(store);
      const first = { ...before, state: 'fetching' as const };
      const second = { ...first, state: 'trial' as const, revision: before.revision + 1 };
      const saved = await store.saveReports([
        report('gw-1', 1, { deployments: [first] }),
        report('gw-1', 2, { deployments: [second] }),
      ]);
      expect(saved).toEqual({ conflicts: [] });
      expect(await store.getDeployments([before.id])).toMatchObject([{ state: 'trial' }]);
    });

    test('a deployment that was given up owns its device again only when no one does, and not without a deadline', async (store) => {
      const before = await offered(store);
      await save(store, 'r1', { withdraw: { reason: 'halted', planned: false } });
      const withdrawn = async () => (await store.getDeployments([before.id]))[0]!;
      const trial = async (deadlineAt: number | null) => ({
        ...(await withdrawn()),
        state: 'trial' as const,
        deadlineAt,
      });
      await store.saveReports([report('gw-1', 1, { deployments: [await trial(null)] })]);
      expect((await store.getDevice(id('gw-1')))?.deployment).toBeNull();
      await store.saveReports([report('gw-1', 2, { deployments: [await trial(T0 + 500)] })]);
      expect((await store.getDevice(id('gw-1')))?.deployment).toBe(before.id);
      await store.saveReports([report('gw-1', 3, { deployments: [{ ...(await withdrawn()), state: 'failed' }] })]);
      await offered(store, 'gw-1', 'r2');
      await store.saveReports([report('gw-1', 4, { deployments: [await trial(T0 + 500)] })]);
      expect((await store.getDevice(id('gw-1')))?.deployment).toBe('r2-gw-1');
    });

    test('a deployment that comes back to a rollout at rest makes it due at its deadline, no matter what restarts in between', async (store) => {
      const before = await offered(store);
      await store.markOverdue(id('r1'), T0 + 60_000, 10, { kind: 'overdue', rollout: id('r1'), by: 'server' });
      const stored = await store.getRollout(id('r1'));
      await save(store, 'r1', { rollout: { ...stored!, nextTickAt: null } });
      expect(await store.listDueRollouts(T0 + 999_999, 10)).toEqual([]);
      const [overdue] = await store.getDeployments([before.id]);
      const back = { state: 'offered' as const, overdue: null, acceptedAt: T0 + 70_000, deadlineAt: T0 + 90_000 };
      await store.saveReports([report('gw-1', 1, { deployments: [{ ...overdue!, ...back }] })]);
      const due = async () => (await store.listDueRollouts(T0 + 90_000, 10)).map(({ nextTickAt }) => nextTickAt);
      expect(await due()).toEqual([T0 + 90_000]);
      // A decision that was made on what was known before does not put it to rest again.
      await save(store, 'r1', { rollout: { ...(await store.getRollout(id('r1')))!, nextTickAt: null } });
      expect(await due()).toEqual([T0 + 90_000]);
    });

    test('a device cannot move the deployment of another', async (store) => {
      const before = await offered(store);
      await enrolFleet(store, ['gw-2']);
      const forged = report('gw-2', 1, { deployments: [{ ...before, state: 'committed' }] });
      await expect(store.saveReports([report('gw-1', 1), forged])).rejects.toThrow('of gw-1');
      expect(await store.getDeployments([before.id])).toEqual([before]);
      expect((await store.getDevice(id('gw-1')))?.reportSeq).toBe(0);
    });

    test('a report of a device that no one knows is passed over', async (store) => {
      expect(await store.saveReports([report('gw-1', 1)])).toEqual({ conflicts: [] });
    });
  });

  describe('desired documents and the outbox', () => {
    test('a signed document is kept only while it is the newest', async (store) => {
      await offered(store);
      const documents = (seq: number) => [{ device: id('gw-1'), seq, document: desiredDocument(seq) }];
      await store.saveDesiredDocuments(documents(1));
      expect((await store.getDesired(id('gw-1')))?.document).toEqual(desiredDocument(1));
      await save(store, 'r1', { withdraw: { reason: 'halted', planned: false } });
      expect((await store.getDesired(id('gw-1')))?.document).toBeNull();
      await store.saveDesiredDocuments(documents(1));
      expect((await store.getDesired(id('gw-1')))?.document).toBeNull();
      await store.saveDesiredDocuments(documents(2));
      expect((await store.getDesired(id('gw-1')))?.document).toEqual(desiredDocument(2));
      expect(await store.getDesired(id('gw-9'))).toBeUndefined();
    });

    test('work stays in the outbox until it is finished, oldest first', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await offered(store, 'gw-1', 'r1');
      await offered(store, 'gw-2', 'r2');
      const items = await store.takeOutbox(10);
      expect(items.map(({ effect }) => effect.devices)).toEqual([['gw-1'], ['gw-2']]);
      expect(await store.takeOutbox(1)).toEqual(items.slice(0, 1));
      await store.finishOutbox([items[0]!.id]);
      expect(await store.takeOutbox(10)).toEqual(items.slice(1));
      await store.finishOutbox(items.map((item) => item.id));
      expect(await store.takeOutbox(10)).toEqual([]);
    });

    test('the number of a finished item is never used again', async (store) => {
      await offered(store, 'gw-1', 'r1');
      const [first] = await store.takeOutbox(1);
      await store.finishOutbox([first!.id]);
      await save(store, 'r1', { withdraw: { reason: digest(1), planned: false } });
      expect((await store.takeOutbox(1))[0]!.id).toBeGreaterThan(first!.id);
    });
  });
};
