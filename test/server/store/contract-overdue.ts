import { describe, expect } from 'vitest';
import type { OpenStore } from './contract.ts';
import { enrolFleet, heartbeat, id, lastLine, offer, plan, report, save, T0 } from './records.ts';
import { storeTest } from './with-store.ts';

export const describeOverdue = (open: OpenStore): void => {
  const test = storeTest(open);

  describe('deadlines', () => {
    test('what no one has accepted in time is overdue as never heard, and its device is free', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await plan(store, 'r1', ['gw-1', 'gw-2']);
      await save(store, 'r1', { offers: [offer('r1')] });
      const [, second] = await store.listDeployments({ rollout: id('r1') }, { limit: 2 });
      const accepted = {
        ...second!,
        state: 'fetching' as const,
        acceptedAt: T0 + 1,
        stateAt: T0 + 1,
        deadlineAt: T0 + 60_001,
      };
      await store.saveReports([report('gw-2', 1, { at: T0 + 1, deployments: [accepted] })]);
      const overdue = (now: number, limit = 10) =>
        store.markOverdue(id('r1'), now, limit, { kind: 'overdue', rollout: id('r1'), by: 'server' });

      expect(await overdue(T0 + 59_999)).toEqual([]);
      expect(await overdue(T0 + 60_000)).toMatchObject([
        { device: 'gw-1', state: 'overdue', overdue: 'never-heard', stateAt: T0 + 60_000, deadlineAt: null },
      ]);
      expect(await store.getDevice(id('gw-1'))).toMatchObject({ deployment: null, desiredSeq: 2 });
      expect(await store.getDesired(id('gw-1'))).toMatchObject({ instruction: { kind: 'none' } });
      expect(await overdue(T0 + 99_999)).toMatchObject([{ device: 'gw-2', state: 'overdue', overdue: 'silent' }]);
      expect((await store.getDevice(id('gw-2')))?.deployment).toBeNull();
      const told = { kind: 'overdue', class: 'silent', reached: 'fetching', devices: ['gw-2'] };
      expect(await lastLine(store)).toMatchObject(told);
      expect(await overdue(T0 + 99_999)).toEqual([]);
    });

    test('a device that is heard lately and does not get on is stuck, not silent; the state that it is in is kept and counted', async (store) => {
      const devices = ['gw-1', 'gw-2', 'gw-3', 'gw-4'];
      await enrolFleet(store, devices);
      await plan(store, 'r1', devices);
      await save(store, 'r1', { offers: [offer('r1', { atMost: 4 })] });
      const all = await store.listDeployments({ rollout: id('r1') }, { limit: 4 });
      const due = T0 + 3_600_000;
      const going = { state: 'trial' as const, acceptedAt: T0 + 1, stateAt: T0 + 2, deadlineAt: due };
      await store.saveReports(
        all.map((one) => report(one.device, 1, { at: T0 + 2, deployments: [{ ...one, ...going }] })),
      );
      // The first is heard to the end, the second until shortly before, the third never again; the fourth has just
      // gone.
      const connected = (name: string, online: boolean, at: number) => ({ device: id(name), online, boot: null, at });
      await store.setOnline(devices.map((name) => connected(name, true, T0)));
      await store.saveHeartbeats([heartbeat('gw-1', due - 300_000), heartbeat('gw-2', due - 300_001)]);
      await store.setOnline([connected('gw-4', false, due - 1_000)]);
      const stamp = { kind: 'overdue' as const, rollout: id('r1'), by: 'server' };
      expect(await store.markOverdue(id('r1'), due, 10, stamp)).toMatchObject([
        { device: 'gw-1', overdue: 'stuck', reached: 'trial' },
        { device: 'gw-2', overdue: 'silent', reached: 'trial' },
        { device: 'gw-3', overdue: 'silent', reached: 'trial' },
        { device: 'gw-4', overdue: 'silent', reached: 'trial' },
      ]);
      expect(await store.countDeployments(id('r1'))).toEqual([
        { wave: 0, state: 'overdue', overdue: 'silent', reached: 'trial', devices: 3 },
        { wave: 0, state: 'overdue', overdue: 'stuck', reached: 'trial', devices: 1 },
      ]);
      const [stuck] = await store.getDeployments([all[0]!.id]);
      const { reached: _, ...late } = { ...stuck!, state: 'committed' as const, overdue: null, decidedAt: due + 1 };
      await store.saveReports([report('gw-1', 2, { at: due + 1, deployments: [late] })]);
      expect((await store.getDeployments([late.id]))[0]).not.toHaveProperty('reached');
      expect(await store.countDeployments(id('r1'))).toEqual(await store.recountDeployments(id('r1')));
    });

    test('who turns up late is looked for among those that accepted, and were offered nothing since', async (store) => {
      const devices = ['gw-1', 'gw-2', 'gw-3'];
      await enrolFleet(store, devices);
      await plan(store, 'r1', devices);
      await save(store, 'r1', { offers: [offer('r1', { atMost: 3 })] });
      const [first, second] = await store.listDeployments({ rollout: id('r1') }, { limit: 3 });
      const going = { state: 'trial' as const, acceptedAt: T0 + 1, stateAt: T0 + 1, deadlineAt: T0 + 60_000 };
      for (const one of [first!, second!])
        await store.saveReports([report(one.device, 1, { at: T0 + 1, deployments: [{ ...one, ...going }] })]);
      const stamp = { kind: 'overdue' as const, rollout: id('r1'), by: 'server' };
      await store.markOverdue(id('r1'), T0 + 60_000, 10, stamp);
      const late = async () => (await store.listLate(devices.map(id))).map(({ device }) => device);
      expect(await late()).toEqual(['gw-1', 'gw-2']);
      expect(await store.listLate([])).toEqual([]);
      await plan(store, 'r2', ['gw-2']);
      await save(store, 'r2', { offers: [offer('r2')], now: T0 + 70_000 });
      expect(await late()).toEqual(['gw-1']);
    });

    test('deadlines that passed while no one could report are moved, and no others', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2', 'gw-3', 'gw-4']);
      await plan(store, 'r1', ['gw-1', 'gw-2', 'gw-3', 'gw-4']);
      await save(store, 'r1', { offers: [offer('r1', { atMost: 3 })] });
      const [first, second, third] = await store.listDeployments({ rollout: id('r1') }, { limit: 3 });
      const until = T0 + 200_000;
      const accepted = { state: 'trial' as const, acceptedAt: T0 + 1 };
      await store.saveReports([
        report('gw-2', 1, { deployments: [{ ...second!, ...accepted, deadlineAt: until + 1 }] }),
        report('gw-3', 1, { deployments: [{ ...third!, ...accepted, state: 'committed', deadlineAt: null }] }),
      ]);
      expect(await store.extendDeadlines(until)).toBe(1);
      const deadlines = (await store.listDeployments({ rollout: id('r1') }, { limit: 4 })).map((one) => one.deadlineAt);
      expect(deadlines).toEqual([until, until + 1, null, null]);
      const excused = (await store.listDeployments({ rollout: id('r1') }, { limit: 4 })).map((one) => one.graceUntil);
      expect(excused).toEqual([until, undefined, undefined, undefined]);
      const stamp = { kind: 'overdue' as const, rollout: id('r1'), by: 'server' };
      expect(await store.markOverdue(id('r1'), until - 1, 10, stamp)).toEqual([]);
      // A report that was read before does not undo it.
      const stale = report('gw-1', 1, { deployments: [{ ...first!, ...accepted, deadlineAt: T0 + 60_001 }] });
      expect(await store.saveReports([stale])).toEqual({ conflicts: [first!.id] });
      expect(await store.extendDeadlines(until)).toBe(0);
    });

    test('when the clock is set, what counts from a time moves along, in rollouts that are not over', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await plan(store, 'r1', ['gw-1']);
      await save(store, 'r1', { offers: [offer('r1')] });
      const [first] = await store.listDeployments({ rollout: id('r1') }, { limit: 1 });
      const accepted = { state: 'trial' as const, acceptedAt: T0 + 1, stateAt: T0 + 2, deadlineAt: T0 + 60_000 };
      await store.saveReports([report('gw-1', 1, { at: T0 + 2, deployments: [{ ...first!, ...accepted }] })]);
      const before = (await store.getRollout(id('r1')))!;
      const line = { payload: '{"kind":"clock-set"}' };
      const by = -3_600_000;
      expect(await store.moveTimes(by, T0 + by, [line])).toEqual({ rollouts: 1, deployments: 1 });
      expect((await store.listDeployments({ rollout: id('r1') }, { limit: 1 }))[0]).toMatchObject({
        acceptedAt: T0 + 1 + by,
        stateAt: T0 + 2 + by,
        deadlineAt: T0 + 60_000 + by,
        decidedAt: null,
      });
      const after = (await store.getRollout(id('r1')))!;
      expect(after.revision).toBe(before.revision + 1);
      expect((await store.getDevice(id('gw-1')))?.lastSeenAt).toBe(T0 + 2 + by);
      expect((await store.getDevice(id('gw-2')))?.lastSeenAt ?? null).toBeNull();
      expect(await lastLine(store)).toMatchObject({ kind: 'clock-set' });
      // What is over stays as it was, but where it would come to lie behind what goes on.
      const [moved] = await store.listDeployments({ rollout: id('r1') }, { limit: 1 });
      const over = { ...after, progress: { state: 'completed' as const, at: T0 }, nextTickAt: null };
      await store.saveReports([
        report('gw-1', 2, { deployments: [{ ...moved!, state: 'committed', decidedAt: T0, deadlineAt: null }] }),
      ]);
      await save(store, 'r1', { rollout: over });
      expect(await store.moveTimes(3_600_000, T0, [line])).toEqual({ rollouts: 0, deployments: 0 });
      expect(await store.moveTimes(by, T0, [line])).toEqual({ rollouts: 0, deployments: 1 });
    });

    test('no more are marked overdue at once than asked for', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2', 'gw-3']);
      await plan(store, 'r1', ['gw-1', 'gw-2', 'gw-3']);
      await save(store, 'r1', { offers: [offer('r1')] });
      const stamp = { kind: 'overdue' as const, rollout: id('r1'), by: 'server' };
      expect(await store.markOverdue(id('r1'), T0 + 99_999, 2, stamp)).toHaveLength(2);
      expect(await store.markOverdue(id('r1'), T0 + 99_999, 2, stamp)).toHaveLength(1);
    });
  });
};
