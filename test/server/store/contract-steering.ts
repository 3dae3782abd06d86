/** Waiting, taking over, joining and drifting: what a store must do about them. */
import { describe, expect } from 'vitest';
import { HELD_FOR_COMMAND } from '#server/domain/deployment/deployment.ts';
import type { OpenStore } from './contract.ts';
import { digest, enrolFleet, id, kindsOf, line, offer, planned, rollout, save, T0 } from './records.ts';
import { storeTest } from './with-store.ts';

export const describeSteering = (open: OpenStore): void => {
  const test = storeTest(open);
  describe('steering', () => {
    test('who is told of spans that are past is listed, and told of others', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await store.createRollout(rollout('r-1'), [planned('r-1', 'gw-1')], []);
      const zones = [{ zone: '', windows: [{ opens: T0, closes: T0 + 1_000 }] }];
      await save(store, 'r-1', { offers: [offer('r-1', { zones })] });
      expect(await store.listOutOfWindows(id('r-1'), T0 + 999, 10)).toEqual([]);
      const [stale] = await store.listOutOfWindows(id('r-1'), T0 + 1_000, 10);
      expect(stale).toMatchObject({ deployment: 'r-1-gw-1', zone: '' });
      const windows = [{ opens: T0 + 5_000, closes: T0 + 6_000 }];
      await store.renewWindows([{ deployment: stale!.deployment, windows, zone: '' }], T0 + 1_000);
      expect(await store.getDesired(id('gw-1'))).toMatchObject({ seq: 2, instruction: { windows } });
    });

    test('rollouts that are recorded together, each with its cohort, are all there or none is', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      const one = (name: string, device: string) => ({
        cohort: {
          name: id(`just-${device}`),
          members: { kind: 'list' as const, devices: [id(device)] },
          createdAt: T0,
        },
        rollout: rollout(name),
        deployments: [planned(name, device)],
      });
      const both = [one('r-1', 'gw-1'), one('r-2', 'gw-2')];
      const twice = [both[0]!, { ...both[1]!, cohort: both[0]!.cohort }];
      await expect(store.createRollouts(twice, [line('lost')])).rejects.toThrow(/cohorts/);
      expect([await store.listRollouts({ limit: 9 }), await store.listCohorts()]).toEqual([[], []]);
      await store.createRollouts(both, [line('cohort-created')]);
      expect((await store.listRollouts({ limit: 9 })).map(({ plan }) => plan.id)).toEqual(['r-2', 'r-1']);
      expect(await store.getCohort(id('just-gw-2'))).toEqual(both[1]!.cohort);
      expect(await store.listDeployments({ rollout: id('r-2') }, { limit: 9 })).toEqual(both[1]!.deployments);
      expect((await kindsOf(store)).filter((kind) => !kind.startsWith('device-'))).toEqual(['cohort-created']);
    });

    test('no one outside of the zones that are open is offered anything', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await store.createRollout(rollout('r-1'), [planned('r-1', 'gw-1')], []);
      const saved = await save(store, 'r-1', {
        offers: [offer('r-1', { zones: [{ zone: 'Asia/Tokyo', windows: [] }] })],
      });
      expect(saved).toMatchObject({ offered: [] });
      expect(await store.listTimeZones(id('r-1'))).toEqual([{ cohort: 'everyone', zone: '' }]);
    });

    test('what was installed for a command is let go with it, and has its time from then', async (store) => {
      await enrolFleet(store, ['gw-1']);
      const held = { state: 'ready' as const, heldUntil: HELD_FOR_COMMAND, offeredAt: T0, acceptedAt: T0 };
      await store.createRollout(rollout('r-1'), [planned('r-1', 'gw-1')], []);
      const template = { ...offer('r-1').instruction, activateAt: null };
      await save(store, 'r-1', { offers: [offer('r-1', { instruction: template })] });
      const [offered] = await store.getDeployments([id('r-1-gw-1')]);
      await store.saveReports([
        {
          device: id('gw-1'),
          publicKey: digest(7),
          boot: id('boot-1'),
          seq: 1,
          at: T0,
          agent: 'test',
          running: null,
          floor: 0,
          attributes: {},
          deployments: [{ ...offered!, ...held, deadlineAt: null }],
          audit: [],
        },
      ]);
      expect(await store.endWaits(id('r-1'), T0 + 50, 100)).toBe(0);
      await save(store, 'r-1', { activate: true, now: T0 + 50 });
      expect((await store.getDesired(id('gw-1')))?.instruction).not.toHaveProperty('activateAt');
      expect((await store.getRollout(id('r-1')))?.plan.activatedAt).toBe(T0 + 50);
      expect(await store.endWaits(id('r-1'), T0 + 50, 100)).toBe(1);
      expect(await store.getDeployments([id('r-1-gw-1')])).toMatchObject([
        { heldUntil: null, acceptedAt: T0 + 50, deadlineAt: T0 + 150 },
      ]);
    });

    test('devices join a rollout as it was read, and it grows', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await store.createRollout(rollout('r-1'), [planned('r-1', 'gw-1')], []);
      expect(await store.listOutside(id('r-1'), [id('gw-1'), id('gw-2')])).toEqual(['gw-2']);
      const read = (await store.getRollout(id('r-1')))!;
      const joined = [planned('r-1', 'gw-2', { position: 1 })];
      expect(await store.addDeployments(read, joined, [line('rollout-joined')], T0)).toBe('added');
      expect((await store.getRollout(id('r-1')))?.plan.waveSizes).toEqual([2]);
      expect(await store.addDeployments(read, [], [], T0)).toBe('conflict');
    });
  });
};
