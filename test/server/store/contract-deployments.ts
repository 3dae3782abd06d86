import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { DeploymentRecord, OutcomeBin } from '#server/domain/deployment/deployment.ts';
import { countOutcomes } from '#server/domain/deployment/deployment.ts';
import type { Store } from '#server/store/store.ts';
import type { OpenStore } from './contract.ts';
import { enrolFleet, id, offer, planned, report, rollout, save, T0 } from './records.ts';
import { storeTest } from './with-store.ts';

const DEVICES = ['gw-1', 'gw-2', 'gw-3', 'gw-4', 'gw-5', 'gw-6'];
const MOVES = [
  'offered',
  'fetching',
  'installing',
  'ready',
  'trial',
  'committed',
  'reverted',
  'failed',
  'withdrawn',
] as const;

/** What may happen to a rollout, in any order. */
const happening = fc.oneof(
  fc.record({ kind: fc.constant('offer' as const), wave: fc.nat({ max: 1 }), atMost: fc.nat({ max: 4 }) }),
  fc.record({ kind: fc.constant('withdraw' as const), planned: fc.boolean() }),
  fc.record({ kind: fc.constant('replan' as const) }),
  fc.record({ kind: fc.constant('overdue' as const), limit: fc.integer({ min: 1, max: 3 }) }),
  fc.record({
    kind: fc.constant('report' as const),
    device: fc.nat({ max: DEVICES.length - 1 }),
    to: fc.constantFrom(...MOVES),
    accepted: fc.boolean(),
  }),
);
type Happening = typeof happening extends fc.Arbitrary<infer H> ? H : never;

const happen = async (store: Store, what: Happening, now: number): Promise<void> => {
  switch (what.kind) {
    case 'offer': {
      const offers = [offer('r1', { wave: what.wave, atMost: what.atMost, acceptBy: now + 3000 })];
      await save(store, 'r1', { offers, now });
      return;
    }
    case 'withdraw':
      await save(store, 'r1', { withdraw: { reason: 'halted', planned: what.planned }, now });
      return;
    case 'replan':
      await save(store, 'r1', { replan: true, now });
      return;
    case 'overdue':
      await store.markOverdue(id('r1'), now, what.limit, { kind: 'overdue', rollout: id('r1'), by: 'server' });
      return;
    case 'report': {
      const name = DEVICES[what.device]!;
      const [stored] = await store.getDeployments([id(`r1-${name}`)]);
      if (stored === undefined || stored.state === 'planned') return;
      const next: DeploymentRecord = {
        ...stored,
        state: what.to,
        overdue: null,
        acceptedAt: stored.acceptedAt ?? (what.accepted ? now : null),
        decidedAt: ['committed', 'reverted', 'failed', 'withdrawn'].includes(what.to) ? now : null,
        deadlineAt: now + 5000,
      };
      await store.saveReports([report(name, now - T0, { deployments: [next] })]);
    }
  }
};

const sorted = (bins: OutcomeBin[]): string[] =>
  bins
    .map((bin) => JSON.stringify(Object.fromEntries(Object.entries(bin).sort(([a], [b]) => (a < b ? -1 : 1)))))
    .sort();

/** What must hold after every step, whatever came before. */
const expectSound = async (store: Store): Promise<void> => {
  const all = await store.listDeployments({ rollout: id('r1') }, { limit: 100 });
  expect(await store.countDeployments(id('r1'))).toEqual(await store.recountDeployments(id('r1')));
  const untouched = all.filter(
    (one) => ['planned', 'withdrawn', 'overdue'].includes(one.state) && one.acceptedAt === null,
  );
  expect(await store.countUntouched(id('r1'))).toBe(untouched.length);
  for (const binMs of [1, 1000]) {
    expect(sorted(await store.getOutcomeBins(id('r1'), binMs))).toEqual(sorted(countOutcomes(all, binMs)));
  }
  for (const device of await store.getDevices(DEVICES.map(id))) {
    const own = all.find((deployment) => deployment.device === device.id)!;
    const open = ['offered', 'fetching', 'installing', 'ready', 'trial'].includes(own.state);
    expect([device.id, device.deployment]).toEqual([device.id, open ? own.id : null]);
    const desired = await store.getDesired(device.id);
    expect(desired?.seq ?? 0).toBe(device.desiredSeq);
  }
};

export const describeDeployments = (open: OpenStore): void => {
  describe('deployments', () => {
    storeTest(open)('deployments are listed as planned, in pages, by rollout, device and state', async (store) => {
      await enrolFleet(store, DEVICES);
      await store.createRollout(
        rollout('r1'),
        DEVICES.map((name) => planned('r1', name)),
        [],
      );
      await store.createRollout(rollout('r2'), [planned('r2', 'gw-2')], []);
      await save(store, 'r1', { offers: [offer('r1', { atMost: 1 })] });
      const ids = async (filter: Parameters<Store['listDeployments']>[0], after?: string, limit = 100) =>
        (await store.listDeployments(filter, { after, limit })).map((one) => one.id);
      expect(await ids({ rollout: id('r1') }, undefined, 2)).toEqual(['r1-gw-1', 'r1-gw-2']);
      expect(await ids({ rollout: id('r1') }, 'r1-gw-2', 2)).toEqual(['r1-gw-3', 'r1-gw-4']);
      expect(await ids({ device: id('gw-2') })).toEqual(['r1-gw-2', 'r2-gw-2']);
      expect(await ids({ rollout: id('r1'), state: 'offered' })).toEqual(['r1-gw-1']);
      expect(await ids({ state: 'planned' }, 'r1-gw-5')).toEqual(['r1-gw-6', 'r2-gw-2']);
      expect(await ids({}, 'unknown')).toEqual([]);
    });

    storeTest(open)(
      'counters are per wave, state, overdue class and the state that the overdue did not get beyond',
      async (store) => {
        await enrolFleet(store, DEVICES);
        const deployments = DEVICES.map((name, index) => planned('r1', name, { wave: index < 2 ? 0 : 1 }));
        await store.createRollout(rollout('r1'), deployments, []);
        await save(store, 'r1', { offers: [offer('r1', { atMost: 1, acceptBy: T0 })] });
        await store.markOverdue(id('r1'), T0, 10, { kind: 'overdue', rollout: id('r1'), by: 'server' });
        expect(await store.countDeployments(id('r1'))).toEqual([
          { wave: 0, state: 'overdue', overdue: 'never-heard', reached: 'offered', devices: 1 },
          { wave: 0, state: 'planned', overdue: null, reached: null, devices: 1 },
          { wave: 1, state: 'planned', overdue: null, reached: null, devices: 4 },
        ]);
        expect(await store.countDeployments(id('r9'))).toEqual([]);
      },
    );

    test('after any history counters, bins, owners and documents agree with the rows', async () => {
      expect.hasAssertions();
      const history = fc.asyncProperty(fc.array(happening, { maxLength: 25 }), async (happenings) => {
        const store = await open();
        try {
          await enrolFleet(store, DEVICES);
          const deployments = DEVICES.map((name, index) =>
            planned('r1', name, { wave: index < 3 ? 0 : 1, position: index }),
          );
          await store.createRollout(rollout('r1'), deployments, []);
          for (const [index, what] of happenings.entries()) {
            // No multiple of any bin: times never are.
            await happen(store, what, T0 + (index + 1) * 1_237);
            await expectSound(store);
          }
        } finally {
          await store.close();
        }
      });
      await fc.assert(history, { numRuns: 15 });
    });
  });
};
