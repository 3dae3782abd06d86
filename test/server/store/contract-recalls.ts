/** Who runs what because of which rollout, and who goes back: what a store must know. */
import { describe, expect } from 'vitest';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import type { OpenStore } from './contract.ts';
import {
  bundle,
  digest,
  enrolFleet,
  GATEWAY,
  id,
  line,
  metadata,
  offer,
  planned,
  report,
  rollout,
  running,
  save,
  T0,
} from './records.ts';
import { storeTest } from './with-store.ts';

const OLD = digest(400);
const NEW = digest(500);
/** `gw-1` to `gw-<count>` run the old release, and were offered the new one by r-1. */
const offered = async (store: Store, count: number): Promise<void> => {
  const names = Array.from({ length: count }, (_, index) => `gw-${index + 1}`);
  await store.createProduct(GATEWAY, line('product-created'));
  await store.acceptBundles([bundle('1.0.0', 'gw2', 500)], metadata(1), []);
  await enrolFleet(store, names);
  await store.saveReports(names.map((name) => report(name, 1, { running: running(OLD) })));
  await store.createRollout(
    rollout('r-1'),
    names.map((name, position) => planned('r-1', name, { position })),
    [],
  );
  await save(store, 'r-1', { offers: [offer('r-1')] });
};
let seq = 10;
const ends = async (
  store: Store,
  name: string,
  more: Partial<DeploymentRecord> = {},
  manifest = NEW,
): Promise<void> => {
  const [known] = await store.getDeployments([id(`r-1-${name}`)]);
  const next = { ...known!, state: 'committed' as const, deadlineAt: null, decidedAt: T0 + 5, ...more };
  await store.saveReports([report(name, (seq += 1), { running: running(manifest), deployments: [next], floor: 3 })]);
};
const backRollout = (name: string, more: Partial<RolloutRecord['plan']> = {}): RolloutRecord => {
  const made = rollout(name);
  return { ...made, plan: { ...made.plan, recalls: id('r-1'), createdAt: T0 + 10, ...more } };
};
const recall = async (store: Store, more: Partial<Parameters<Store['saveRecall']>[0]> = {}) =>
  store.saveRecall({
    recalled: (await store.getRollout(id('r-1')))!,
    created: [],
    joined: [],
    stays: [],
    audit: [],
    now: T0 + 10,
    ...more,
  });
const listed = async (store: Store, since = T0 + 10): Promise<string[]> =>
  (await store.listRecallable(id('r-1'), since, 100)).map(({ device }) => device);

export const describeRecalls = (open: OpenStore): void => {
  const test = storeTest(open);
  describe('recalls', () => {
    test('who committed, or regressed since, is listed with what it ran before; no one else', async (store) => {
      await offered(store, 5);
      await ends(store, 'gw-1');
      await ends(store, 'gw-2', { state: 'failed', error: { code: 'REGRESSED', message: 'ill' } });
      await ends(store, 'gw-3', { state: 'failed', error: { code: 'NO_SPACE', message: 'full' } }, OLD);
      await ends(store, 'gw-4', {}, digest(7));
      expect(await store.listRecallable(id('r-1'), T0, 100)).toEqual([
        {
          device: 'gw-1',
          cohort: 'everyone',
          compatible: 'gw2',
          state: 'committed',
          before: running(OLD),
          floor: 3,
          isLetIn: true,
        },
        expect.objectContaining({ device: 'gw-2', state: 'failed', before: running(OLD) }),
      ]);
      expect(await store.listRecallable(id('r-1'), T0, 1)).toHaveLength(1);
    });

    test('who is on the way back, or was found to stay, is not listed again; since a later recall, who is not on the way is', async (store) => {
      await offered(store, 3);
      for (const name of ['gw-1', 'gw-2', 'gw-3']) await ends(store, name);
      const created = [{ rollout: backRollout('r-2'), deployments: [planned('r-2', 'gw-1')] }];
      const stays = [{ device: id('gw-2'), reason: 'ran-nothing' as const }];
      expect(await recall(store, { created, stays, audit: [line('rollout-planned')] })).toBe('saved');
      expect(await listed(store)).toEqual(['gw-3']);
      expect(await store.listRecalls(id('r-1'))).toEqual([
        { id: 'r-2', product: 'gateway', version: '1.0.0', devices: 1 },
      ]);
      expect(await store.listStays(id('r-1'), T0)).toEqual([{ reason: 'ran-nothing', devices: 1, named: ['gw-2'] }]);
      expect(await listed(store, T0 + 11)).toEqual(['gw-2', 'gw-3']);
      await save(store, 'r-2', { withdraw: { reason: 'aborted', planned: true } });
      expect(await listed(store, T0 + 11)).toEqual(['gw-1', 'gw-2', 'gw-3']);
      expect(await store.listStays(id('r-1'), T0 + 11)).toEqual([]);
    });

    test('devices join a rollout that is on the way; of two at once only one does anything', async (store) => {
      await offered(store, 2);
      for (const name of ['gw-1', 'gw-2']) await ends(store, name);
      const read = (await store.getRollout(id('r-1')))!;
      await recall(store, { created: [{ rollout: backRollout('r-2'), deployments: [planned('r-2', 'gw-1')] }] });
      const joined = [
        { rollout: (await store.getRollout(id('r-2')))!, deployments: [planned('r-2', 'gw-2', { position: 1 })] },
      ];
      expect(await recall(store, { recalled: read, joined })).toBe('conflict');
      expect(await recall(store, { joined })).toBe('saved');
      expect(await recall(store, { joined })).toBe('conflict');
      expect((await store.getRollout(id('r-2')))?.plan.waveSizes).toEqual([2]);
      expect(await store.countDeployments(id('r-2'))).toMatchObject([{ state: 'planned', devices: 2 }]);
    });

    test('who committed something else later is nothing for the recall', async (store) => {
      await offered(store, 1);
      await ends(store, 'gw-1');
      await store.createRollout(
        rollout('r-3'),
        [planned('r-3', 'gw-1', { state: 'committed', decidedAt: T0 + 9 })],
        [],
      );
      expect(await listed(store)).toEqual([]);
    });

    test('a late commit makes a recalled rollout due; one that no one recalled may rest', async (store) => {
      await offered(store, 2);
      const record = (await store.getRollout(id('r-1')))!;
      const halted = { state: 'completed' as const, at: T0 };
      for (const name of ['gw-1', 'gw-2']) await ends(store, name, { state: 'trial', decidedAt: null });
      await save(store, 'r-1', { rollout: { ...record, progress: halted, nextTickAt: null } });
      await ends(store, 'gw-1');
      expect((await store.getRollout(id('r-1')))?.nextTickAt).toBeNull();
      await save(store, 'r-1', {
        rollout: {
          ...(await store.getRollout(id('r-1')))!,
          progress: { ...halted, recalled: { at: T0, by: 'ada', note: '' } },
          nextTickAt: null,
        },
      });
      const [second] = await store.getDeployments([id('r-1-gw-2')]);
      const next = { ...second!, state: 'committed' as const, decidedAt: T0 + 6 };
      await store.saveReports([report('gw-2', 1_000, { running: running(NEW), deployments: [next] })]);
      expect((await store.getRollout(id('r-1')))?.nextTickAt).toBe(T0 + 1_000);
    });
  });
};
