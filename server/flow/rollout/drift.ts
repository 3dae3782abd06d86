/** What a person does about a device that runs what no one told it to run: adopt it, or send the device back. */

import { auditLine } from '#server/domain/audit.ts';
import type { Channel } from '#server/domain/release/channel.ts';
import { plural } from '#server/domain/words.ts';
import type { CohortRecord, DriftRecord } from '#server/store/devices.ts';
import type { Page } from '#server/store/page.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import type { DeploymentState } from '#shared/deployment.ts';
import { Id, releaseRef } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';
import { accept, type Refusal, type Result, refuse } from '#shared/problems.ts';
import { everyPage } from '../every-page.ts';
import { type Planned, preparePlan } from './plan-rollout.ts';

/** As many as the API takes by name. */
const RECONCILED_AT_ONCE = 1_000;
const NAMED_MAX = 20;
const ON_THE_WAY = new Set<DeploymentState>(['planned', 'offered', 'fetching', 'installing', 'ready', 'trial']);

type Deps = { store: Store; channels: readonly Channel[]; now: () => number; newId: () => Id };

/** Refusals: `not-found` (it does not drift), `conflict` (it runs something else by now). */
export const adoptDrift = async (
  deps: Pick<Deps, 'store' | 'now'>,
  input: { device: Id; note: string; by: string },
): Promise<Result<DriftRecord>> => {
  const drift = await deps.store.getDrift(input.device);
  if (drift === undefined) return notDrifted(deps, input.device);
  const { product, version, manifest } = drift.running;
  const { device, note, by } = input;
  const running = releaseRef(product, version);
  const audit = auditLine({ at: deps.now(), by, kind: 'drift-adopted', device, running, note });
  const adopted = await deps.store.adoptRunning(device, manifest, audit);
  return adopted === 'adopted'
    ? accept({ ...drift, expected: drift.running })
    : refuse('conflict', `${device} runs something else by now; look again`);
};

/**
 * One rollout for each release that these devices should run, to just the devices concerned: with waves, judge and
 * receipts like any other. All of them, or none. Whom such a rollout takes back already stays with it: it is among
 * those that are returned. Refusals: `not-found` (one of them does not drift), `conflict` (a release is unknown here,
 * or not staged anywhere).
 */
export const reconcileDrift = async (
  deps: Deps,
  input: { devices: Id[] | 'all'; by: string },
): Promise<Result<RolloutRecord[]>> => {
  const drifted = await driftOf(deps, input.devices);
  if (!drifted.ok) return drifted;
  const wanted = new Map<string, Wanted>();
  const ways = await waysBack(deps);
  const known = new Set<RolloutRecord>();
  const stay: { device: Id; refused: Refusal }[] = [];
  for (const drift of drifted.value) {
    const { device } = drift;
    const found = await wantedBy(deps, drift);
    if (!found.ok) {
      stay.push({ device, refused: found });
      continue;
    }
    const name = releaseRef(found.value.product, found.value.version);
    const way = ways.get(device);
    if (way !== undefined && releaseRef(way.plan.product, way.plan.version) === name) {
      known.add(way);
      continue;
    }
    wanted.set(name, { ...found.value, devices: [...(wanted.get(name)?.devices ?? []), device] });
  }
  const [first, ...others] = stay;
  if (first !== undefined) return others.length === 0 ? first.refused : alsoOf(first.refused, others);
  const planned: (Planned & { cohort: CohortRecord })[] = [];
  for (const one of wanted.values()) {
    const plan = await planFor(deps, one, input.by);
    if (!plan.ok) return plan;
    planned.push(plan.value);
  }
  const audit = planned.flatMap((one) => [
    auditLine({ at: one.cohort.createdAt, by: input.by, kind: 'cohort-created', cohort: one.cohort.name }),
    one.audit,
  ]);
  if (planned.length > 0) await deps.store.createRollouts(planned, audit);
  return accept([...known, ...planned.map(({ rollout }) => rollout)]);
};

/** Who asks again, or asks every hour, must not plan another rollout each time for a device that is away. */
const waysBack = async ({ store }: Deps): Promise<Map<Id, RolloutRecord>> => {
  const ways = new Map<Id, RolloutRecord>();
  for (const rollout of await store.listOpenRollouts()) {
    const { plan, progress } = rollout;
    if (progress.state === 'halted' || plan.reconciles !== true) continue;
    const list = (page: Page) => store.listDeployments({ rollout: plan.id }, page);
    for await (const { device, state } of everyPage(list, ({ id }) => id))
      if (ON_THE_WAY.has(state)) ways.set(device, rollout);
  }
  return ways;
};

type Wanted = { product: Id; version: string; channel: Id; devices: Id[] };

/** `all`: those that drift now. Named ones must. */
const driftOf = async (deps: Deps, devices: Id[] | 'all'): Promise<Result<DriftRecord[]>> => {
  if (devices === 'all') return accept(await deps.store.listDrifted({ limit: RECONCILED_AT_ONCE }));
  const drifted: DriftRecord[] = [];
  for (const device of new Set(devices)) {
    const drift = await deps.store.getDrift(device);
    if (drift === undefined) return notDrifted(deps, device);
    drifted.push(drift);
  }
  return accept(drifted);
};

/** A person who decides about several of them should not find them one by one. */
const alsoOf = ({ code, detail }: Refusal, others: readonly { device: Id }[]): Refusal => {
  const named = others.slice(0, NAMED_MAX).map(({ device }) => device);
  const more = others.length > named.length ? ' and others' : '';
  return refuse(code, `${detail}; nor can ${plural(others.length, 'other')} go back: ${named.join(', ')}${more}`);
};

const wantedBy = async (deps: Deps, { device, ...drift }: DriftRecord): Promise<Result<Wanted>> => {
  const bundle = await deps.store.findBundle(drift.expected.manifest);
  const name = releaseRef(drift.expected.product, drift.expected.version);
  if (bundle === undefined)
    return refuse(
      'conflict',
      `${device} should run ${name}, which was never published here: adopt what it runs instead`,
    );
  const release = await deps.store.getRelease(bundle.product, bundle.version);
  const channel = release?.progress.state === 'staged' ? release.progress.channels.at(-1) : undefined;
  if (channel === undefined) return refuse('conflict', `${device} should run ${name}, which is not staged any more`);
  return accept({ product: bundle.product, version: bundle.version, channel, devices: [device] });
};

const planFor = async (
  deps: Deps,
  { devices, ...release }: Wanted,
  by: string,
): Promise<Result<Planned & { cohort: CohortRecord }>> => {
  const name = Id.parse(`drift-${deps.newId()}`);
  const cohort: CohortRecord = { name, members: { kind: 'list', devices }, createdAt: deps.now() };
  const store: Parameters<typeof preparePlan>[0]['store'] = {
    getRelease: (product, version) => deps.store.getRelease(product, version),
    listDevices: (filter, page) => deps.store.listDevices(filter, page),
    // Recorded together with its rollout.
    getCohort: async () => cohort,
  };
  const cohorts = [{ cohort: name, waves: [{ percent: 100 }] }];
  const planned = await preparePlan({ ...deps, store }, { ...release, cohorts, policy: Policy.parse({}), by });
  if (!planned.ok) return planned;
  const { rollout, ...rest } = planned.value;
  return accept({ ...rest, cohort, rollout: { ...rollout, plan: { ...rollout.plan, reconciles: true as const } } });
};

const notDrifted = async ({ store }: { store: Pick<Store, 'getDevice'> }, device: Id): Promise<Result<never>> =>
  (await store.getDevice(device)) === undefined
    ? refuse('not-found', `there is no device ${device}`)
    : refuse('not-found', `${device} does not run anything that it was not told to run`);
