/** What was offered is taken back, and planned again. */
import { describe, expect } from 'vitest';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { OpenStore } from './contract.ts';
import {
  device,
  digest,
  enrolFleet,
  id,
  lastLine,
  line,
  offer,
  outboxOf,
  plan,
  report,
  save,
  statesOf,
  T0,
} from './records.ts';
import { storeTest } from './with-store.ts';

export const describeWithdrawals = (open: OpenStore): void => {
  const test = storeTest(open);

  describe('withdrawals', () => {
    test('a withdrawal takes back everything up to ready, leaves trials, and supersedes what devices were told', async (store) => {
      const states = ['offered', 'fetching', 'installing', 'ready', 'trial', 'committed'] as const;
      await enrolFleet(store, [...states, 'planned']);
      await plan(store, 'r1', [...states, 'planned']);
      await save(store, 'r1', { offers: [offer('r1', { atMost: 6 })] });
      const offered = await store.listDeployments({ rollout: id('r1'), state: 'offered' }, { limit: 100 });
      const reports = offered.map((one) => {
        const state = states.find((name) => one.device === name)!;
        return report(one.device, 1, { deployments: [{ ...one, state }] });
      });
      await store.saveReports(reports);
      await store.finishOutbox((await store.takeOutbox(10)).map((item) => item.id));

      const reason = 'halted: '.padEnd(300, 'x');
      const halted = await save(store, 'r1', { withdraw: { reason, planned: false }, now: T0 + 9 });
      expect(halted).toMatchObject({ withdrawn: ['r1-offered', 'r1-fetching', 'r1-installing', 'r1-ready'] });
      expect(await statesOf(store, 'r1')).toEqual({
        offered: 'withdrawn',
        fetching: 'withdrawn',
        installing: 'withdrawn',
        ready: 'withdrawn',
        trial: 'trial',
        committed: 'committed',
        planned: 'planned',
      });
      expect(await store.getDevice(id('ready'))).toMatchObject({ deployment: null, desiredSeq: 2 });
      expect((await store.getDevice(id('trial')))?.deployment).toBe('r1-trial');
      expect(await store.getDesired(id('ready'))).toMatchObject({
        seq: 2,
        instruction: { kind: 'none', reason: reason.slice(0, 256) },
        document: null,
      });
      const devices = ['offered', 'fetching', 'installing', 'ready'];
      expect(await outboxOf(store)).toEqual([{ kind: 'publish-desired', devices }]);
      expect(await lastLine(store)).toEqual({
        at: T0 + 9,
        by: 'server',
        kind: 'withdrawn',
        rollout: 'r1',
        devices,
        reason,
      });

      await save(store, 'r1', { withdraw: { reason: 'aborted', planned: true } });
      expect(await statesOf(store, 'r1')).toMatchObject({ planned: 'withdrawn', trial: 'trial' });
      expect(await store.getDesired(id('planned'))).toBeUndefined();
    });

    test('shutting a device out ends its deployments, frees it, and supersedes what it was told', async (store) => {
      const states = ['offered', 'fetching', 'installing', 'ready', 'trial', 'committed'] as const;
      await enrolFleet(store, states);
      await plan(store, 'r1', states);
      await plan(store, 'r2', states);
      await save(store, 'r1', { offers: [offer('r1')] });
      const offered = await store.listDeployments({ rollout: id('r1') }, { limit: 100 });
      for (const one of offered) {
        const state = states.find((name) => one.device === name)!;
        const next = { ...one, state, acceptedAt: T0 + 1, deadlineAt: state === 'committed' ? null : T0 + 500 };
        await store.saveReports([report(one.device, 1, { deployments: [next] })]);
      }
      const before = (await store.getAuditHead()).size;
      for (const name of states) {
        const shutOut = await store.setDeviceState(id(name), 'rejected', T0 + 9, line('device-rejected'));
        expect(shutOut).toMatchObject({ state: 'rejected', deployment: null });
      }
      expect(await statesOf(store, 'r1')).toEqual({
        offered: 'withdrawn',
        fetching: 'withdrawn',
        installing: 'withdrawn',
        ready: 'withdrawn',
        trial: 'withdrawn',
        committed: 'committed',
      });
      expect(new Set(Object.values(await statesOf(store, 'r2')))).toEqual(new Set(['withdrawn']));
      for (const name of ['r1', 'r2']) {
        expect(await store.countDeployments(id(name))).toEqual(await store.recountDeployments(id(name)));
      }
      expect(await store.getDeployments([id('r1-ready')])).toMatchObject([
        { stateAt: T0 + 9, decidedAt: T0 + 9, deadlineAt: null, revision: 3 },
      ]);
      expect(await store.getDesired(id('ready'))).toMatchObject({
        seq: 2,
        instruction: { kind: 'none', reason: 'device rejected' },
      });
      expect(await store.getDesired(id('committed'))).toMatchObject({ seq: 1, instruction: { kind: 'install' } });
      const lines = (await store.readAudit(before - 1, 100)).map(({ payload }): unknown => JSON.parse(payload));
      expect(lines).toHaveLength(3 * 5 + 2);
      expect(lines.slice(0, 3)).toEqual([
        { kind: 'device-rejected' },
        ...['r1', 'r2'].map((name) => ({
          at: T0 + 9,
          by: 'server',
          kind: 'withdrawn',
          rollout: name,
          devices: ['offered'],
          reason: 'device rejected',
        })),
      ]);
      await store.setDeviceState(id('ready'), 'accepted', T0 + 10, line('device-accepted'));
      expect(await save(store, 'r2', { offers: [offer('r2')] })).toMatchObject({ offered: [] });
    });

    test('what a halt withdrew is planned again when it is resumed, and can be offered again', async (store) => {
      const states = ['offered', 'fetching', 'late', 'trial', 'committed', 'rejected', 'out'] as const;
      await enrolFleet(store, states);
      await plan(store, 'r1', states);
      await save(store, 'r1', { offers: [offer('r1')] });
      const move = async (name: string, seq: number, to: Partial<DeploymentRecord>) => {
        const [stored] = await store.getDeployments([id(`r1-${name}`)]);
        await store.saveReports([report(name, seq, { deployments: [{ ...stored!, ...to }] })]);
      };
      await move('fetching', 1, { state: 'fetching', acceptedAt: T0 + 1, deadlineAt: T0 + 500 });
      await move('trial', 1, { state: 'trial', acceptedAt: T0 + 1, deadlineAt: T0 + 500 });
      await move('committed', 1, { state: 'committed', acceptedAt: T0 + 1, deadlineAt: null, decidedAt: T0 + 2 });
      // One is shut out before the halt, one after it.
      await store.setDeviceState(id('rejected'), 'rejected', T0 + 9, line('device-rejected'));
      await save(store, 'r1', { withdraw: { reason: 'rollout halted: evidence', planned: false }, now: T0 + 9 });
      await store.setDeviceState(id('out'), 'rejected', T0 + 9, line('device-rejected'));
      await store.setDeviceState(id('rejected'), 'accepted', T0 + 9, line('device-accepted'));
      // One had activated before it heard of the withdrawal, and says so.
      await move('late', 1, { state: 'trial', acceptedAt: T0 + 1, deadlineAt: T0 + 500, decidedAt: null });

      const resumed = { replan: true, audit: [line('rollout-resumed')], now: T0 + 20 };
      const stale = { ...(await store.getRollout(id('r1')))!, revision: 0 };
      expect(await save(store, 'r1', { ...resumed, rollout: stale })).toEqual({ result: 'conflict' });
      expect(await statesOf(store, 'r1')).toMatchObject({ offered: 'withdrawn', fetching: 'withdrawn' });
      await save(store, 'r1', resumed);
      expect(await statesOf(store, 'r1')).toEqual({
        offered: 'planned',
        fetching: 'planned',
        late: 'trial',
        trial: 'trial',
        committed: 'committed',
        rejected: 'withdrawn',
        out: 'withdrawn',
      });
      expect(await store.countDeployments(id('r1'))).toEqual(await store.recountDeployments(id('r1')));
      expect(await lastLine(store)).toEqual({
        at: T0 + 20,
        by: 'server',
        kind: 'replanned',
        rollout: 'r1',
        devices: ['offered', 'fetching'],
      });
      const fetching = () => store.getDeployments([id('r1-fetching')]);
      // It was offered, and accepted: what counts the untouched must know.
      expect(await fetching()).toMatchObject([
        { offeredAt: T0, acceptedAt: T0 + 1, decidedAt: null, stateAt: T0 + 20, deadlineAt: null },
      ]);
      await save(store, 'r1', { offers: [offer('r1')], now: T0 + 30 });
      expect(await fetching()).toMatchObject([
        { state: 'offered', offeredAt: T0 + 30, acceptedAt: null, deadlineAt: T0 + 60_000 },
      ]);
      expect(await store.getDesired(id('fetching'))).toMatchObject({ seq: 3, instruction: { kind: 'install' } });
    });

    test('what was withdrawn for another reason than a halt is never planned again', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await plan(store, 'r1', ['gw-1', 'gw-2']);
      await save(store, 'r1', { offers: [offer('r1', { atMost: 1 })] });
      await save(store, 'r1', { withdraw: { reason: 'rollout aborted', planned: true } });
      await save(store, 'r1', { replan: true });
      expect(await statesOf(store, 'r1')).toEqual({ 'gw-1': 'withdrawn', 'gw-2': 'withdrawn' });

      // By a halt first, then by the device's own word: a trial that it gave up.
      await plan(store, 'r2', ['gw-1']);
      await save(store, 'r2', { offers: [offer('r2')] });
      await save(store, 'r2', { withdraw: { reason: 'rollout halted', planned: false } });
      for (const [seq, state] of [
        [1, 'trial'],
        [2, 'withdrawn'],
      ] as const) {
        const [stored] = await store.getDeployments([id('r2-gw-1')]);
        await store.saveReports([report('gw-1', seq, { deployments: [{ ...stored!, state }] })]);
      }
      await save(store, 'r2', { replan: true });
      expect(await statesOf(store, 'r2')).toEqual({ 'gw-1': 'withdrawn' });
    });

    test('what takes the place of a device begins again: open deployments end, planned ones stay unless it is other hardware', async (store) => {
      await enrolFleet(store, ['same', 'other', 'done']);
      for (const name of ['r1', 'r2']) await plan(store, name, ['same', 'other', 'done']);
      await save(store, 'r1', { offers: [offer('r1')] });
      const [finished] = await store.getDeployments([id('r1-done')]);
      const end = { ...finished!, state: 'committed' as const, acceptedAt: T0, decidedAt: T0, deadlineAt: null };
      await store.saveReports([report('done', 1, { deployments: [end] })]);
      const names = ['same', 'other', 'done'];
      await store.createEnrolmentTokens(
        names.map((name, index) => ({
          tokenSha256: digest(index + 1),
          expiresAt: T0 + 99,
          device: id(name),
          tags: {},
          usedBy: null,
        })),
        line('tokens'),
      );
      for (const [index, name] of names.entries()) {
        const newcomer = device(name, { publicKey: digest(8), ...(name === 'other' ? { compatible: id('gw9') } : {}) });
        const enrolled = await store.enrolDevice(newcomer, digest(index + 1), T0 + 9, line('lost'), line('replaced'));
        expect(enrolled).toMatchObject({ result: 'replaced', device: { deployment: null } });
        expect(await store.getDesired(id(name))).toMatchObject({
          seq: 2,
          instruction: { kind: 'none', reason: 'device replaced' },
        });
      }
      expect(await statesOf(store, 'r1')).toEqual({ same: 'withdrawn', other: 'withdrawn', done: 'committed' });
      expect(await statesOf(store, 'r2')).toEqual({ same: 'planned', other: 'withdrawn', done: 'planned' });
      for (const name of ['r1', 'r2'])
        expect(await store.countDeployments(id(name))).toEqual(await store.recountDeployments(id(name)));
      expect(await save(store, 'r2', { offers: [offer('r2')] })).toMatchObject({ offered: ['r2-same', 'r2-done'] });
    });

    test('a device that is shut out while a rollout is planned is withdrawn from it at once', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await store.setDeviceState(id('gw-2'), 'rejected', T0, line('device-rejected'));
      await plan(store, 'r1', ['gw-1', 'gw-2']);
      expect(await statesOf(store, 'r1')).toEqual({ 'gw-1': 'planned', 'gw-2': 'withdrawn' });
      expect(await lastLine(store)).toMatchObject({
        kind: 'withdrawn',
        rollout: 'r1',
        devices: ['gw-2'],
        reason: 'device rejected',
      });
      expect(await store.countDeployments(id('r1'))).toEqual(await store.recountDeployments(id('r1')));
    });
  });
};
