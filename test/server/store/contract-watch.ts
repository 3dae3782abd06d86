import { describe, expect } from 'vitest';
import type { Store } from '#server/store/store.ts';
import type { OpenStore } from './contract.ts';
import {
  bundle,
  digest,
  enrolFleet,
  GATEWAY,
  heartbeat,
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

/** `gw-1` has committed in rollout `r1` what bundle 500 holds. */
const commitOne = async (store: Store): Promise<void> => {
  await store.createProduct(GATEWAY, line('product-created'));
  await store.acceptBundles([bundle('1.0.0', 'gw2', 500)], metadata(1), [line('bundle-accepted')]);
  await enrolFleet(store, ['gw-1']);
  await store.createRollout(rollout('r1'), [planned('r1', 'gw-1')], []);
  await save(store, 'r1', { offers: [offer('r1')] });
  const [deployment] = await store.listDeployments({ rollout: id('r1') }, { limit: 1 });
  const next = { ...deployment!, state: 'committed' as const, acceptedAt: T0, decidedAt: T0 + 1, deadlineAt: null };
  await store.saveReports([report('gw-1', 1, { deployments: [next], running: running(digest(500)) })]);
};
const suspects = (store: Store, since = T0) => store.listSuspects(id('r1'), since, 100);
const beat = (store: Store, seconds: number, more: object = {}) =>
  store.saveHeartbeats([heartbeat('gw-1', T0 + seconds * 1000, { running: running(digest(500)), ...more })]);

export const describeWatch = (open: OpenStore): void => {
  const test = storeTest(open);

  describe('devices that committed are watched', () => {
    test('one that is well is no suspect', async (store) => {
      await commitOne(store);
      await beat(store, 1);
      await beat(store, 2);
      expect(await suspects(store)).toEqual([]);
    });

    test('it is known since when it is unhealthy, and that it was healthy again', async (store) => {
      await commitOne(store);
      await beat(store, 1, { healthy: false });
      await beat(store, 9, { healthy: false });
      const since = T0 + 1000;
      const lastSeenAt = T0 + 9000;
      const manifests = { runs: digest(500), committed: digest(500) };
      const health = { unhealthySince: since, restarts: 1, lastSeenAt, ...manifests };
      expect(await suspects(store)).toMatchObject([{ deployment: { device: 'gw-1', state: 'committed' }, health }]);
      await beat(store, 10);
      expect((await suspects(store))[0]?.health).toMatchObject({ unhealthySince: null, restarts: 1 });
    });

    test('what the device reports to be wrong with it is known too', async (store) => {
      await commitOne(store);
      await beat(store, 1, { healthy: false });
      await store.saveReports([report('gw-1', 2, { attributes: { unhealthy: 'the check database fails' } })]);
      expect((await suspects(store))[0]?.health.says).toBe('the check database fails');
    });

    test('restarts since the commit are counted: falls and other boots, not what was before', async (store) => {
      await commitOne(store);
      for (const boot of ['boot-2', 'boot-2', 'boot-3', 'boot-4']) await beat(store, 1, { boot: id(boot) });
      expect((await suspects(store))[0]?.health.restarts).toBe(2);
    });

    test('one that runs another release is a suspect', async (store) => {
      await commitOne(store);
      await beat(store, 1, { running: running(digest(7)) });
      expect((await suspects(store))[0]?.health).toMatchObject({ runs: digest(7), committed: digest(500) });
    });

    test('not one that committed too long ago, nor one that was offered something since', async (store) => {
      await commitOne(store);
      await beat(store, 1, { healthy: false });
      expect(await suspects(store, T0 + 1)).toEqual([]);
      await store.createRollout(rollout('r2'), [planned('r2', 'gw-1')], []);
      const { instruction } = offer('r2');
      await save(store, 'r2', { offers: [offer('r2', { instruction: { ...instruction, sha256: digest(9) } })] });
      expect(await suspects(store)).toEqual([]);
    });

    test('a regression is saved once, with its line; its counters move, and no one else may have moved it', async (store) => {
      await commitOne(store);
      await beat(store, 1, { healthy: false });
      const [suspect] = await suspects(store);
      const next = { ...suspect!.deployment, state: 'failed' as const };
      const moves = [{ next, audit: [line('regressed', { device: 'gw-1' })] }];
      expect([await store.saveRegressions(moves), await store.saveRegressions(moves)]).toEqual([1, 0]);
      expect(await suspects(store)).toEqual([]);
      expect(await store.countDeployments(id('r1'))).toEqual(await store.recountDeployments(id('r1')));
      expect(await store.countDeployments(id('r1'))).toMatchObject([{ state: 'failed', devices: 1 }]);
      const [entry] = await store.listDeviceAudit(id('gw-1'), { limit: 1 });
      expect(JSON.parse(entry!.payload)).toMatchObject({ kind: 'regressed' });
    });
  });
};
