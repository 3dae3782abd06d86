/** The properties that hold after every single call of the store, and the witness that remembers what was seen before. */

import { binMsOf } from '#server/domain/deployment.ts';
import { ruleOn } from '#server/domain/halting.ts';
import { TRANSITIONS } from '#server/domain/rollout-step.ts';
import { groupName, setAside, tallyOf } from '#server/domain/tally.ts';
import { OWNING_STATES } from '#server/store/sqlite/deployments.ts';
import type { SyncStore } from '#server/store/sqlite/sync.ts';
import type { DeploymentRecord, OutcomeBin, RolloutRecord } from '#server/store/store.ts';
import { Receipt } from '#shared/deployment.ts';
import { Id } from '#shared/ids.ts';
import { Signed } from '#shared/messages.ts';
import { ed25519PublicKey, type PublicKey } from '#shared/trust/keys.ts';
import { verifySigned } from '#shared/trust/signed.ts';
import type { World } from './world.ts';

type Event = {
  kind: string;
  rollout?: string;
  deployment?: string;
  device?: string;
  devices?: string[];
  from?: string;
  to?: string;
  [member: string]: unknown;
};
type Save = Parameters<SyncStore['saveRollout']>[0];
type BinsRead = { rollout: Id; revision: number; bins: OutcomeBin[] };

export type Witness = {
  /** Runs one call of the store, and looks at what it did. */
  observe(method: string, args: unknown[], act: () => unknown): unknown;
  /** Receipts in the audit log. */
  receipts: ReadonlySet<string>;
  deployments: ReadonlyMap<Id, DeploymentRecord>;
  /** Deployments that were committed once, whatever became of them. */
  committed: ReadonlySet<Id>;
  /** When this rollout withdrew its offers (halted or aborted); undefined while it runs or pauses, which lets those go on who have theirs. */
  withdrewAt(rollout: Id): number | undefined;
  /** Counters against rows, for every rollout; the log's length against its tree. */
  recount: () => void;
};

/** Where in the rollout a device may still be told to stay. */
const BEFORE_TRIAL: ReadonlySet<string> = new Set(['offered', 'fetching', 'installing', 'ready']);
const KINDS_OF_STATE: Record<string, readonly string[]> = {
  running: ['rollout-started', 'rollout-resumed'],
  paused: ['rollout-paused'],
  halted: ['rollout-halted'],
  aborted: ['rollout-aborted'],
  completed: ['rollout-completed'],
};
const READS_MAX = 64;

export const openWitness = (world: World, store: SyncStore): Witness => {
  const mirror = new Map<Id, DeploymentRecord>();
  const receipts = new Set<string>();
  const committed = new Set<Id>();
  const withdrew = new Map<Id, number>();
  const keys = new Map<Id, PublicKey>();
  let reads: BinsRead[] = [];
  let auditRead = -1;

  const keyOf = (device: Id): PublicKey => {
    const known = keys.get(device) ?? ed25519PublicKey(world.signerOf(device).key.keyval.public);
    keys.set(device, known);
    return known;
  };
  const news = (): Event[] => {
    const entries = store.readAudit(auditRead, 1_000);
    auditRead = entries.at(-1)?.index ?? auditRead;
    const events = entries.map(({ payload }): Event => JSON.parse(payload));
    for (const event of events) if (event.kind === 'receipt') checkReceipt(world, keyOf, receipts, event);
    return events;
  };
  const look = (rows: DeploymentRecord[], events: Event[]): void => {
    for (const row of rows) {
      const before = mirror.get(row.id);
      mirror.set(row.id, row);
      if (row.state === 'committed') committed.add(row.id);
      if (before !== undefined && before.state !== row.state) explain(world, before, row, events);
    }
  };

  const lookAtSave = (save: Save, before: RolloutRecord | undefined, owned: Set<string>, result: unknown): void => {
    const outcome = result as ReturnType<SyncStore['saveRollout']>;
    if (outcome.result !== 'saved' || before === undefined) return;
    const { id } = save.rollout.plan;
    const events = news();
    look(store.listDeployments({ rollout: id }, { limit: 10_000 }), events);
    const [from, to] = [before.progress.state, save.rollout.progress.state];
    if (from !== to) {
      world.tell(`rollout ${id}: ${from} -> ${to}`);
      const allowed = Object.values(TRANSITIONS[from]).some((states) => states.includes(to));
      if (!allowed) world.violate(`rollout ${id} went from ${from} to ${to}`);
      const kinds = KINDS_OF_STATE[to];
      if (!events.some((event) => event.rollout === id && (kinds === undefined || kinds.includes(event.kind))))
        world.violate(`rollout ${id} went from ${from} to ${to} without a line in the audit log`);
    }
    if (to === 'running') withdrew.delete(id);
    if (to === 'halted' || to === 'aborted') {
      if (!withdrew.has(id)) withdrew.set(id, world.time.now());
      const left = [...mirror.values()].filter((row) => row.rollout === id && BEFORE_TRIAL.has(row.state));
      if (from !== to && left.length > 0)
        world.violate(`rollout ${id} is ${to}, and ${left[0]?.id} still has its offer`);
    }
    if (outcome.offered.length === 0) return;
    if (to !== 'running' || from !== 'running')
      world.violate(`rollout ${id} offers while it is ${from} and then ${to}`);
    for (const offered of outcome.offered) {
      const row = mirror.get(offered);
      if (row !== undefined && owned.has(row.device))
        world.violate(`rollout ${id} offers to ${row.device}, which another deployment owns`);
    }
    checkAllowance(
      world,
      save,
      outcome.offered.map((one) => mirror.get(one)!),
      reads,
    );
  };

  const observe = (method: string, args: unknown[], act: () => unknown): unknown => {
    switch (method) {
      case 'getOutcomeBins': {
        const rollout = args[0] as Id;
        const bins = act() as OutcomeBin[];
        reads = [...reads.slice(1 - READS_MAX), { rollout, revision: store.getRollout(rollout)?.revision ?? 0, bins }];
        return bins;
      }
      case 'saveRollout': {
        const save = args[0] as Save;
        const before = store.getRollout(save.rollout.plan.id);
        const owned = new Set(
          save.offers.length === 0
            ? []
            : store
                .listDevices({}, { limit: 10_000 })
                .flatMap((device) => (device.deployment === null ? [] : [device.id])),
        );
        const result = act();
        lookAtSave(save, before, owned, result);
        return result;
      }
      case 'markOverdue': {
        const marked = act() as DeploymentRecord[];
        if (marked.length > 0) look(marked, news());
        return marked;
      }
      case 'saveReports': {
        const rows = args[0] as Parameters<SyncStore['saveReports']>[0];
        const result = act();
        const ids = rows.flatMap(({ deployments }) => deployments.map(({ id }) => id));
        const events = news();
        if (ids.length > 0) look(store.getDeployments(ids), events);
        return result;
      }
      case 'setDeviceState': {
        const result = act();
        look(store.listDeployments({ device: args[0] as Id }, { limit: 10_000 }), news());
        return result;
      }
      case 'createRollout': {
        const result = act();
        const { plan } = args[0] as RolloutRecord;
        const events = news();
        if (!events.some(({ kind, rollout }) => kind === 'rollout-planned' && rollout === plan.id))
          world.violate(`rollout ${plan.id} was planned without a line in the audit log`);
        look(store.listDeployments({ rollout: plan.id }, { limit: 10_000 }), events);
        return result;
      }
      default:
        return act();
    }
  };

  return {
    observe,
    receipts,
    deployments: mirror,
    committed,
    withdrewAt: (rollout) => withdrew.get(rollout),
    recount: () => {
      for (const { plan } of store.listRollouts({ limit: 1_000 })) {
        const [counted, recounted] = [store.countDeployments(plan.id), store.recountDeployments(plan.id)];
        if (fingerprint(counted) !== fingerprint(recounted))
          world.violate(`rollout ${plan.id} counts ${fingerprint(counted)}, but there are ${fingerprint(recounted)}`);
      }
      checkOwners(world, store);
    },
  };
};

const fingerprint = (counts: ReturnType<SyncStore['countDeployments']>): string =>
  counts
    .filter(({ devices }) => devices !== 0)
    .map(({ wave, state, overdue, devices }) => `${wave}/${state}/${overdue ?? ''}=${devices}`)
    .sort()
    .join();

/** Whoever owns a device is a deployment of it that is under way. */
const checkOwners = (world: World, store: SyncStore): void => {
  for (const device of store.listDevices({}, { limit: 10_000 })) {
    if (device.deployment === null) continue;
    const owner = store.getDeployments([device.deployment])[0];
    if (owner?.device !== device.id || !OWNING_STATES.includes(owner.state))
      world.violate(
        `${device.id} is owned by ${device.deployment}, which is ${owner?.state ?? 'nowhere'} on ${owner?.device}`,
      );
  }
};

/** Each change of a deployment's state has, in the same transaction, a line that names it. */
const explain = (world: World, before: DeploymentRecord, row: DeploymentRecord, events: Event[]): void => {
  world.tell(`deployment ${row.id} of ${row.device}: ${before.state} -> ${row.state}`);
  const named = events.filter((event) => event.rollout === row.rollout || event.deployment === row.id);
  const told = named.some(
    (event) =>
      event.deployment === row.id || event.device === row.device || event.devices?.includes(row.device) === true,
  );
  // Nobody was told of a planned deployment, so the line about its rollout is enough.
  const ended = before.state === 'planned' && row.state === 'withdrawn' && named.length > 0;
  if (!told && !ended)
    world.violate(`deployment ${row.id} went from ${before.state} to ${row.state} without a line in the audit log`);
  for (const event of named)
    if (event.kind === 'deployment-moved' && event.deployment === row.id && event.from === event.to)
      world.violate(`deployment ${row.id}: the audit log says that nothing moved`);
  if (row.state !== 'committed') return;
  const proof = events.find((event) => event.kind === 'receipt' && event.deployment === row.id);
  const receipt = proof === undefined ? undefined : Receipt.parse(JSON.parse(Signed.parse(proof['receipt']).payload));
  const release = receipt === undefined ? undefined : world.releases.get(receipt.version);
  if (
    receipt?.outcome !== 'committed' ||
    receipt.device !== row.device ||
    receipt.running?.manifest !== release?.manifests.get(row.compatible)
  )
    world.violate(`deployment ${row.id} counts as committed without a receipt that proves it`);
};

const checkReceipt = (world: World, keyOf: (device: Id) => PublicKey, receipts: Set<string>, event: Event): void => {
  const signed = Signed.parse(event['receipt']);
  receipts.add(signed.payload);
  if (event.device === undefined || !verifySigned(signed, keyOf(Id.parse(event.device))))
    world.violate(`a receipt in the audit log was not signed by ${event.device}`);
};

/** What was offered is within what the judge, and the limit of devices at risk, allowed by the counts that the decision was made from. */
const checkAllowance = (world: World, save: Save, offered: DeploymentRecord[], reads: BinsRead[]): void => {
  const { plan, progress, revision } = save.rollout;
  const acknowledged = 'acknowledged' in progress ? (progress.acknowledged ?? []) : [];
  const basis = reads.filter((read) => read.rollout === plan.id && read.revision === revision);
  const fits = basis.some(({ bins }) => {
    const counted = setAside(bins, acknowledged);
    const ruling = ruleOn(plan.policy, counted, save.now);
    if (ruling.kind === 'halt') return false;
    const total = tallyOf(counted);
    if (total.unaccepted + total.undecided + offered.length > plan.policy.limits.atRiskMax) return false;
    return ruling.grants.every(
      ({ group, atMost }) =>
        offered.filter((row) => groupName(row) === groupName(group)).length <=
        Math.max(0, atMost - tallyOf(group.bins).unaccepted),
    );
  });
  if (!fits)
    world.violate(
      `rollout ${plan.id} offers to ${offered.length} devices, more than its judge allows (bins of ${binMsOf(plan.policy)} ms, ${basis.length} readings)`,
    );
};
