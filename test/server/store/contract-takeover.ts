/** Several rollouts that want the same devices, and devices that run what no one told them to: what a store must do. */
import * as fc from 'fast-check';
import { describe, expect } from 'vitest';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import type { Running } from '#shared/deployment.ts';
import { Policy } from '#shared/policy.ts';
import type { OpenStore } from './contract.ts';
import {
  bundle,
  digest,
  enrolFleet,
  GATEWAY,
  heartbeat,
  id,
  kindsOf,
  lastLine,
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

const DEVICES = ['gw-1', 'gw-2', 'gw-3', 'gw-4'];
const of = (name: string, priority: number): RolloutRecord => {
  const record = rollout(name);
  return { ...record, plan: { ...record.plan, policy: Policy.parse({ priority }), waveSizes: [DEVICES.length] } };
};
const open = (store: Store, name: string, priority: number, devices = DEVICES): Promise<void> =>
  store.createRollout(
    of(name, priority),
    devices.map((device, position) => planned(name, device, { position })),
    [],
  );
/** A device that runs it already would be skipped: each has a release of its own. */
const offerOf = (name: string, more: Parameters<typeof offer>[1] = {}) => {
  const base = offer(name, more);
  return { ...base, instruction: { ...base.instruction, sha256: digest(600 + name.length + name.charCodeAt(0)) } };
};
const statesOf = async (store: Store, name: string): Promise<string[]> =>
  (await store.listDeployments({ rollout: id(name) }, { limit: 100 })).map(({ state }) => state);

const ACTING = ['offered', 'fetching', 'installing', 'ready', 'trial'];
/**
 * Each device has at most one deployment that acts, and that is the one that owns it; what it was told is of that one.
 */
const expectOneOwner = async (store: Store): Promise<void> => {
  const all = await store.listDeployments({}, { limit: 1_000 });
  for (const name of DEVICES) {
    const acting = all.filter(({ device, state }) => device === name && ACTING.includes(state));
    expect(acting.length).toBeLessThanOrEqual(1);
    expect((await store.getDevice(id(name)))?.deployment).toBe(acting[0]?.id ?? null);
    const told = (await store.getDesired(id(name)))?.instruction;
    if (acting[0] !== undefined) expect(told).toMatchObject({ kind: 'install', deployment: acting[0].id });
  }
};

export const describeTakeover = (openStore: OpenStore): void => {
  const test = storeTest(openStore);
  describe('taking over', () => {
    test('devices are taken from the lower rollout, which plans them again, says so, and gets them back', async (store) => {
      await enrolFleet(store, DEVICES);
      await open(store, 'low', 50);
      await save(store, 'low', { offers: [offerOf('low')] });
      await open(store, 'urgent', 90, ['gw-1', 'gw-2']);
      await save(store, 'urgent', { offers: [offerOf('urgent')] });
      expect(await statesOf(store, 'low')).toEqual(['planned', 'planned', 'offered', 'offered']);
      expect(await store.listBlockers(id('low'), [])).toEqual([{ rollout: 'urgent', devices: 2 }]);
      const taken = (await store.readAudit(-1, 100)).map(({ payload }) => JSON.parse(payload));
      expect(taken.filter(({ kind }) => kind === 'taken-over')).toMatchObject([
        { rollout: 'low', for: 'urgent', devices: ['gw-1', 'gw-2'] },
      ]);
      await expectOneOwner(store);
      // Nothing of it while the urgent one has them; all of it when it has ended.
      await save(store, 'low', { offers: [offerOf('low')] });
      expect(await statesOf(store, 'low')).toEqual(['planned', 'planned', 'offered', 'offered']);
      await save(store, 'urgent', { withdraw: { reason: 'aborted', planned: true } });
      await save(store, 'low', { offers: [offerOf('low')] });
      expect(await statesOf(store, 'low')).toEqual(['offered', 'offered', 'offered', 'offered']);
      expect(await store.listBlockers(id('low'), [])).toEqual([]);
    });

    test('a trial is never taken over', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await open(store, 'low', 50, ['gw-1']);
      await save(store, 'low', { offers: [offerOf('low')] });
      const [mine] = await store.listDeployments({ rollout: id('low') }, { limit: 1 });
      const trial = { ...mine!, state: 'trial' as const, acceptedAt: T0, deadlineAt: T0 + 9_999 };
      await store.saveReports([report('gw-1', 1, { deployments: [trial] })]);
      await open(store, 'urgent', 90, ['gw-1']);
      await save(store, 'urgent', { offers: [offerOf('urgent')] });
      expect([await statesOf(store, 'low'), await statesOf(store, 'urgent')]).toEqual([['trial'], ['planned']]);
    });

    test('where a higher rollout may not act now it keeps no one waiting, by cohort and time zone', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await store.saveReports([report('gw-2', 1, { attributes: { timezone: 'Asia/Tokyo' } })]);
      await open(store, 'urgent', 90, ['gw-1', 'gw-2']);
      await open(store, 'low', 50, ['gw-1', 'gw-2']);
      expect(await store.listRunningAbove(id('low'))).toMatchObject([{ id: 'urgent' }]);
      expect(await store.listRunningAbove(id('urgent'))).toEqual([]);
      await save(store, 'low', { offers: [offerOf('low')] });
      expect(await statesOf(store, 'low')).toEqual(['planned', 'planned']);
      const shutAbove = [{ rollout: id('urgent'), cohort: id('everyone'), zone: 'Asia/Tokyo' }];
      expect(await store.listBlockers(id('low'), shutAbove)).toEqual([{ rollout: 'urgent', devices: 1 }]);
      await save(store, 'low', { offers: [offerOf('low', { shutAbove })] });
      expect(await statesOf(store, 'low')).toEqual(['planned', 'offered']);
    });

    const move = fc.record({
      who: fc.constantFrom('aa', 'bb', 'cc'),
      what: fc.constantFrom('offer', 'one', 'accept', 'trial', 'commit', 'revert', 'withdraw'),
      device: fc.constantFrom(...DEVICES),
    });
    test('whatever three rollouts do with the same devices, no device ever has two owners, and none is lost', async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(move, { maxLength: 25 }),
          fc.array(fc.nat(100), { minLength: 3, maxLength: 3 }),
          async (moves, priorities) => {
            const store = await openStore();
            try {
              await enrolFleet(store, DEVICES);
              for (const [index, name] of ['aa', 'bb', 'cc'].entries()) await open(store, name, priorities[index]!);
              let seq = 0;
              for (const { who, what, device } of moves) {
                seq += 1;
                await act(store, who, what, device, seq);
                await expectOneOwner(store);
              }
              // A rollout that comes first and is left with planned devices gets them all.
              const [first] = ['aa', 'bb', 'cc'].sort(
                (a, b) => priorities['abc'.indexOf(b[0]!)]! - priorities['abc'.indexOf(a[0]!)]!,
              );
              await save(store, first!, { offers: [offerOf(first!)] });
              await expectOneOwner(store);
              const left = (await store.listDeployments({ rollout: id(first!) }, { limit: 100 })).filter(
                ({ state }) => state === 'planned',
              );
              for (const { device } of left) {
                const owner = (await store.getDevice(device))?.deployment;
                const [theirs] = await store.getDeployments([owner!]);
                const higher =
                  priorities['abc'.indexOf(theirs!.rollout[0]!)]! >= priorities['abc'.indexOf(first![0]!)]!;
                expect(theirs?.state === 'trial' || higher).toBe(true);
              }
            } finally {
              await store.close();
            }
          },
        ),
        { numRuns: 10 },
      );
    });
  });

  describe('drift', () => {
    const manual = (): Running => ({ ...running(digest(900)), version: '0.9.0' });
    const beat = (store: Store, device: string, at: number, what: Running | null) =>
      store.saveHeartbeats([heartbeat(device, at, { running: what })]);

    test('what a device runs first is what it should run; another is drift until it is back; told once an hour', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await beat(store, 'gw-1', T0 + 1, running());
      expect(await store.countDrifted()).toBe(0);
      await beat(store, 'gw-1', T0 + 2, manual());
      await beat(store, 'gw-1', T0 + 3, manual());
      expect(await store.listDrifted({ limit: 10 })).toEqual([
        { device: 'gw-1', expected: running(), running: manual(), since: T0 + 2, online: false },
      ]);
      await beat(store, 'gw-1', T0 + 4, running());
      expect(await store.getDrift(id('gw-1'))).toBeUndefined();
      await beat(store, 'gw-1', T0 + 5, manual());
      expect((await kindsOf(store)).filter((kind) => kind === 'device-drifted')).toHaveLength(1);
      await beat(store, 'gw-1', T0 + 6, running());
      await beat(store, 'gw-1', T0 + 3_600_005, manual());
      expect((await kindsOf(store)).filter((kind) => kind === 'device-drifted')).toHaveLength(2);
    });

    test('a drift whose beginning was told is told to end, once: back where it should be, or busy with a deployment', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await beat(store, 'gw-1', T0 + 1, running());
      await beat(store, 'gw-1', T0 + 2, manual());
      await beat(store, 'gw-1', T0 + 3, running());
      await beat(store, 'gw-1', T0 + 4, running());
      const ended = { kind: 'drift-ended', device: 'gw-1', running: 'gateway@1.0.0', deployment: null, at: T0 + 3 };
      expect(await lastLine(store)).toMatchObject(ended);
      // Within the hour neither its beginning nor its end is told again.
      await beat(store, 'gw-1', T0 + 5, manual());
      await beat(store, 'gw-1', T0 + 6, running());
      expect(await lastLine(store)).toMatchObject(ended);
      const later = T0 + 3_600_010;
      await beat(store, 'gw-1', later, manual());
      await open(store, 'r', 50, ['gw-1']);
      await save(store, 'r', { offers: [offerOf('r', { atMost: 1 })] });
      await beat(store, 'gw-1', later + 1, manual());
      const deployment = (await store.getDevice(id('gw-1')))!.deployment;
      expect(deployment).not.toBeNull();
      expect(await lastLine(store)).toMatchObject({ kind: 'drift-ended', running: 'gateway@0.9.0', deployment });
    });

    // Found by hand: the last line about such a device said that it drifted no more.
    test('a drift that was not told within the hour is told when it goes on, and to end', async (store) => {
      await enrolFleet(store, ['gw-1']);
      for (const [at, what] of [running(), manual(), running(), manual()].entries())
        await beat(store, 'gw-1', T0 + at, what);
      const [began, hour] = [T0 + 3, T0 + 1 + 3_600_000];
      await beat(store, 'gw-1', hour - 1, manual());
      expect(await lastLine(store)).toMatchObject({ kind: 'drift-ended' });
      for (const at of [hour, hour + 1]) await beat(store, 'gw-1', at, manual());
      expect(await lastLine(store)).toMatchObject({ kind: 'device-drifted', at: hour });
      expect(await store.getDrift(id('gw-1'))).toMatchObject({ since: began });
      await beat(store, 'gw-1', hour + 2, running());
      expect(await lastLine(store)).toMatchObject({ kind: 'drift-ended', at: hour + 2 });
    });

    // Found by hand: the log said of such a device that no one had told it to run what it was on trial of.
    test('who is still on trial of what the server gave up does not drift; who stays there without it does', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await beat(store, 'gw-1', T0 + 1, running());
      await open(store, 'r', 50, ['gw-1']);
      await save(store, 'r', { offers: [offerOf('r', { atMost: 1 })] });
      const [given] = await store.listDeployments({ rollout: id('r') }, { limit: 1 });
      const trial = { state: 'trial' as const, acceptedAt: T0 + 2, stateAt: T0 + 2, deadlineAt: T0 + 60_000 };
      await store.saveReports([report('gw-1', 2, { at: T0 + 2, deployments: [{ ...given!, ...trial }] })]);
      const stamp = { kind: 'overdue' as const, rollout: id('r'), by: 'server' };
      expect(await store.markOverdue(id('r'), T0 + 60_000, 10, stamp)).toHaveLength(1);
      await store.createProduct(GATEWAY, line('product-created'));
      await store.acceptBundles([bundle('1.0.0', 'gw2', 900)], metadata(1), []);
      const onTrial = { running: manual(), trialOf: given!.id };
      await store.saveHeartbeats([heartbeat('gw-1', T0 + 60_001, onTrial)]);
      await store.saveReports([report('gw-1', 3, { at: T0 + 60_002, ...onTrial })]);
      expect(await store.countDrifted()).toBe(0);
      // A word about someone else's is no excuse.
      await store.saveHeartbeats([heartbeat('gw-1', T0 + 60_003, { ...onTrial, trialOf: id('r-2') })]);
      expect(await store.countDrifted()).toBe(1);
      // Nor is it one for running anything else.
      await store.saveHeartbeats([heartbeat('gw-1', T0 + 60_003, { ...onTrial, running: running(digest(901)) })]);
      expect(await store.countDrifted()).toBe(1);
      await store.saveHeartbeats([heartbeat('gw-1', T0 + 60_004, onTrial)]);
      expect(await store.countDrifted()).toBe(0);
      expect(await lastLine(store)).toMatchObject({ kind: 'drift-ended', deployment: given!.id });
      await beat(store, 'gw-1', T0 + 60_005, manual());
      expect(await store.listDrifted({ limit: 2 })).toMatchObject([{ expected: running(), running: manual() }]);
    });

    test('who says that it runs nothing is not listed with what it ran', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await beat(store, 'gw-1', T0 + 1, running());
      await beat(store, 'gw-1', T0 + 2, manual());
      await beat(store, 'gw-1', T0 + 3, null);
      expect([await store.countDrifted(), await store.listDrifted({ limit: 2 })]).toEqual([0, []]);
    });

    test('lists are pages; a device that is shut out drifts no more', async (store) => {
      await enrolFleet(store, DEVICES);
      for (const device of DEVICES) {
        await beat(store, device, T0 + 1, running());
        await beat(store, device, T0 + 2, manual());
      }
      expect((await store.listDrifted({ limit: 2 })).map(({ device }) => device)).toEqual(['gw-1', 'gw-2']);
      expect((await store.listDrifted({ limit: 2, after: id('gw-2') })).map(({ device }) => device)).toEqual([
        'gw-3',
        'gw-4',
      ]);
      await store.setDeviceState(id('gw-3'), 'rejected', T0 + 3, line('device-rejected', { device: 'gw-3' }));
      expect(await store.countDrifted()).toBe(3);
    });

    test('what is adopted is what was seen: not what the device runs by now', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await beat(store, 'gw-1', T0 + 1, running());
      await beat(store, 'gw-1', T0 + 2, manual());
      const adopt = (manifest: Running) => store.adoptRunning(id('gw-1'), manifest.manifest, line('drift-adopted'));
      expect(await adopt(running(digest(901)))).toBe('conflict');
      expect(await kindsOf(store)).not.toContain('drift-adopted');
      expect(await adopt(manual())).toBe('adopted');
      expect(await adopt(manual())).toBe('conflict');
      await beat(store, 'gw-1', T0 + 3, manual());
      expect(await store.countDrifted()).toBe(0);
      await beat(store, 'gw-1', T0 + 4, running());
      expect(await store.listDrifted({ limit: 1 })).toMatchObject([{ expected: manual(), running: running() }]);
    });

    const word = fc.record({
      device: fc.constantFrom(...DEVICES),
      what: fc.constantFrom('beat', 'nothing', 'adopt', 'offer', 'commit'),
      seed: fc.integer({ min: 1, max: 3 }),
    });
    test('drift is just what a device runs besides what it should, whatever came before; adopting always ends it', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(word, { maxLength: 25 }), async (words) => {
          const store = await openStore();
          const should = new Map<string, number>();
          const does = new Map<string, number>();
          try {
            await enrolFleet(store, DEVICES);
            await open(store, 'r', 50);
            let at = T0;
            for (const { device, what, seed } of words) {
              at += 1;
              const owned = (await store.getDevice(id(device)))?.deployment ?? null;
              if (what === 'nothing') await beat(store, device, at, null);
              if (what === 'beat') {
                await beat(store, device, at, running(digest(seed)));
                does.set(device, seed);
                if (!should.has(device)) should.set(device, seed);
              }
              if (
                what === 'adopt' &&
                (await store.adoptRunning(id(device), digest(does.get(device) ?? 0), line('a'))) === 'adopted'
              )
                should.set(device, does.get(device)!);
              if (what === 'offer') await save(store, 'r', { offers: [offer('r', { atMost: 1 })] });
              if (what === 'commit' && owned !== null) {
                const [mine] = await store.getDeployments([owned]);
                const done = { ...mine!, state: 'committed' as const, decidedAt: at, deadlineAt: null };
                await store.saveReports([
                  report(device, at - T0, { at, deployments: [done], running: running(digest(seed)) }),
                ]);
                should.set(device, seed);
                does.set(device, seed);
              }
            }
            // A device that is owned is on its way; a report of any other settles whether it drifts.
            for (const device of DEVICES)
              if (does.has(device)) await beat(store, device, (at += 1), running(digest(does.get(device)!)));
            const drifts: string[] = [];
            for (const device of DEVICES)
              if ((await store.getDevice(id(device)))?.deployment === null && should.get(device) !== does.get(device))
                drifts.push(device);
            expect((await store.listDrifted({ limit: 10 })).map(({ device }) => device)).toEqual(drifts);
            expect(await store.countDrifted()).toBe(drifts.length);
            for (const device of drifts)
              expect(await store.adoptRunning(id(device), digest(does.get(device)!), line('a'))).toBe('adopted');
            expect(await store.countDrifted()).toBe(0);
          } finally {
            await store.close();
          }
        }),
        { numRuns: 10 },
      );
    });
  });
};

/** One move of one rollout or one device, where it is possible at all. */
const act = async (store: Store, who: string, what: string, device: string, seq: number): Promise<void> => {
  if (what === 'offer' || what === 'one') {
    await save(store, who, { offers: [offerOf(who, { atMost: what === 'one' ? 1 : 100 })] });
    return;
  }
  if (what === 'withdraw') {
    await save(store, who, { withdraw: { reason: 'halted', planned: false } });
    return;
  }
  const owner = (await store.getDevice(id(device)))?.deployment;
  const [mine] = owner === undefined || owner === null ? [] : await store.getDeployments([owner]);
  if (mine === undefined) return;
  const states = { accept: 'fetching', trial: 'trial', commit: 'committed', revert: 'reverted' } as const;
  const state = states[what as keyof typeof states];
  const decided = state === 'committed' || state === 'reverted';
  const next = {
    ...mine,
    state,
    acceptedAt: T0,
    decidedAt: decided ? T0 : null,
    deadlineAt: decided ? null : T0 + 9_999,
  };
  if (mine.state === 'trial' && !decided) return;
  await store.saveReports([report(device, seq, { deployments: [next] })]);
};
