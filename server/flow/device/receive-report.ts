/**
 * State reports, many at once: receipts are verified, deployments stepped, all of it saved, and only then acknowledged.
 * Everything a device says about itself is taken at its word, but `committed` counts only with its signed receipt.
 */

import { type AuditEvent, auditLine, byDevice, parseAuditEvent } from '#server/domain/audit.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { type DeviceReport, stepDeployment, TOLD } from '#server/domain/deployment/deployment-step.ts';
import { stepLate } from '#server/domain/deployment/late-report.ts';
import type { RolloutPlan } from '#server/domain/rollout/rollout.ts';
import type { DeviceRecord } from '#server/store/devices.ts';
import type { ReportRow } from '#server/store/ingest.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';
import type { Ack, Heartbeat, Signed, StateReport } from '#shared/messages.ts';
import type { Policy } from '#shared/policy.ts';
import { waitUntilOf } from '../time/rollout-time.ts';
import { fits, inOrder, type PlanFacts, parseReceipt } from './check-receipt.ts';

export type Report = { device: Id; report: StateReport };
export type Received = {
  /** What may be acknowledged: it is committed, by now or since before. */
  acks: { device: Id; ack: Ack }[];
  saved: number;
  /** Rollouts of which a deployment moved: they may have something to decide. */
  moved: Set<Id>;
  refusedReceipts: { device: Id; why: string }[];
};

type ReportStore = Pick<
  Store,
  'getDevices' | 'getDeployments' | 'listLate' | 'getRollout' | 'getRelease' | 'saveReports' | 'listDeviceAudit'
>;
export type ReceiveDeps = {
  store: ReportStore;
  now: () => number;
  /** May one more line about a refused receipt of this device go into the audit log? */
  mayTell: (device: Id) => boolean;
};

/** Someone else (a halt, a deadline) moved the same deployment in between: rare, so a few attempts are plenty. */
const ATTEMPTS_MAX = 5;
/** How far back a repeated receipt is looked for. A device has at most a few lines per deployment. */
const AUDIT_LOOKBACK = 200;
/** Beside one for each time that it was offered: a device could sign new ones forever. */
const RECEIPTS_SPARE_MAX = 7;

/** At most one report of each device in `reports`. What is not among the acks will be repeated by its device. */
export const receiveReports = async (deps: ReceiveDeps, reports: Report[]): Promise<Received> => {
  const received: Received = { acks: [], saved: 0, moved: new Set(), refusedReceipts: [] };
  let open = reports;
  for (let attempt = 1; open.length > 0 && attempt <= ATTEMPTS_MAX; attempt++) {
    open = await attemptToSave(deps, open, received);
  }
  return received;
};

/** Returns the reports that have to be tried again on fresh rows. */
const attemptToSave = async (deps: ReceiveDeps, reports: Report[], received: Received): Promise<Report[]> => {
  const facts = await loadFacts(deps, reports);
  const prepared: { from: Report; row: ReportRow; refused: string[] }[] = [];
  for (const from of reports) {
    const device = facts.devices.get(from.device);
    if (device === undefined || device.state !== 'accepted') continue;
    if (from.report.seq <= device.reportSeq) {
      received.acks.push(ackOf(from, { highest: device.reportSeq }));
      continue;
    }
    prepared.push({ from, ...(await prepareReport(deps, facts, device, from.report)) });
  }
  if (prepared.length === 0) return [];
  const { conflicts } = await deps.store.saveReports(prepared.map(({ row }) => row));
  const conflicting = new Set(conflicts);
  const again: Report[] = [];
  for (const { from, row, refused } of prepared) {
    if (row.deployments.some(({ id }) => conflicting.has(id))) {
      again.push(from);
      continue;
    }
    received.acks.push(ackOf(from));
    received.saved += 1;
    for (const { rollout } of row.deployments) received.moved.add(rollout);
    received.refusedReceipts.push(...refused.map((why) => ({ device: from.device, why })));
  }
  return again;
};

const ackOf = ({ device, report }: Report, seen: Pick<Ack, 'highest'> = {}): { device: Id; ack: Ack } => ({
  device,
  ack: { boot: report.boot, seq: report.seq, ...seen },
});

// ---- What is known

type Facts = {
  now: number;
  devices: Map<Id, DeviceRecord>;
  deployments: Map<Id, DeploymentRecord>;
  plans: Map<Id, PlanFacts>;
  /** Of devices with which nothing goes on: what they were given up with. */
  late: DeploymentRecord[];
};

/** A rollout that has ended offers nothing again. */
const policyOf = ({ plan: { policy }, progress: { state } }: RolloutRecord): Policy =>
  state === 'aborted' || state === 'completed' ? { ...policy, retries: { ...policy.retries, max: 0 } } : policy;

const loadFacts = async ({ store, now }: ReceiveDeps, reports: Report[]): Promise<Facts> => {
  const devices = await store.getDevices(reports.map(({ device }) => device));
  const named = new Set<Id>();
  for (const { report } of reports) {
    if (report.deployment !== null) named.add(report.deployment.id);
    for (const signed of report.receipts) {
      const receipt = parseReceipt(signed);
      if (receipt !== undefined) named.add(receipt.deployment);
    }
  }
  const told = named.size === 0 ? [] : await store.getDeployments([...named]);
  const idle = reports.filter(({ report }) => report.deployment === null).map(({ device }) => device);
  const late = idle.length === 0 ? [] : await store.listLate(idle);
  const deployments = [...told, ...late.filter(({ id }) => !named.has(id))];
  const plans = new Map<Id, PlanFacts>();
  for (const { rollout } of deployments) {
    if (plans.has(rollout)) continue;
    const record = await store.getRollout(rollout);
    if (record === undefined) continue;
    const { product, version } = record.plan;
    const policy = policyOf(record);
    const bundles = (await store.getRelease(product, version))?.bundles ?? [];
    const manifests = new Map(bundles.map(({ compatible, manifestSha256 }) => [compatible, manifestSha256]));
    plans.set(rollout, { product, version, policy, plan: record.plan, manifests });
  }
  return {
    now: now(),
    devices: new Map(devices.map((device) => [device.id, device])),
    deployments: new Map(deployments.map((deployment) => [deployment.id, deployment])),
    plans,
    late,
  };
};

// ---- What a report does

const prepareReport = async (
  deps: ReceiveDeps,
  facts: Facts,
  device: DeviceRecord,
  report: StateReport,
): Promise<{ row: ReportRow; refused: string[] }> => {
  const audit: AuditEvent[] = [];
  const refused: string[] = [];
  const moved = new Map<Id, DeploymentRecord>();
  const current = (id: Id): DeploymentRecord | undefined => moved.get(id) ?? facts.deployments.get(id);
  const held = (plan: RolloutPlan, { cohort }: DeploymentRecord) =>
    waitUntilOf(plan, cohort, report.attributes, facts.now);
  const apply = (deployment: DeploymentRecord, plan: PlanFacts, word: DeviceReport): boolean => {
    const step = stepDeployment(deployment, word, facts.now, plan.policy, held(plan.plan, deployment));
    if (step.next === deployment) return false;
    moved.set(deployment.id, step.next);
    audit.push(...step.audit);
    return true;
  };

  // Receipts first, so that what the snapshot says is no news any more.
  for (const { signed, checked } of inOrder(report.receipts, device)) {
    const verdict = checked.ok ? fits(checked.receipt, facts) : checked;
    if (!verdict.ok) {
      refused.push(verdict.why);
      continue;
    }
    const { deployment, plan, receipt } = verdict;
    const did = apply(current(deployment.id) ?? deployment, plan, {
      outcome: receipt.outcome,
      error: receipt.error,
      attempt: receipt.attempt,
    });
    const known = did ? 'new' : await findStored(deps, deployment, signed);
    if (known === 'too-many') refused.push('there are more receipts for the deployment than it can have outcomes');
    if (known === 'new') {
      audit.push({
        at: facts.now,
        by: byDevice(device.id),
        kind: 'receipt',
        device: device.id,
        deployment: deployment.id,
        receipt: signed,
      });
    }
  }
  const said = report.deployment;
  const deployment = said === null ? undefined : current(said.id);
  const plan = deployment === undefined ? undefined : facts.plans.get(deployment.rollout);
  // A snapshot that names a deployment of another device is nonsense, and no reason to lose the rest of the report.
  if (said !== null && deployment?.device === device.id && plan !== undefined) {
    apply(deployment, plan, { state: said.state, error: said.error, attempt: said.attempt });
  }
  // Turned up, without a word about what it was given up with. A device that took its place tells nothing about it.
  for (const { id, acceptedAt } of facts.late.filter((one) => one.device === device.id)) {
    const lost = current(id);
    if (lost === undefined || (acceptedAt ?? 0) < device.enrolledAt) continue;
    const manifest = facts.plans.get(lost.rollout)?.manifests.get(lost.compatible);
    const step = stepLate(lost, report.running, manifest, facts.now);
    if (step.next === lost) continue;
    moved.set(id, step.next);
    audit.push(...step.audit);
  }
  // One line a report, and not for every report: a hostile device must not flood the log that everyone has to keep.
  const why = refused[0];
  if (why !== undefined && deps.mayTell(device.id)) {
    audit.push({ at: facts.now, by: byDevice(device.id), kind: 'receipt-refused', device: device.id, why });
  }
  return { row: rowOf(device, report, facts.now, [...moved.values()], audit), refused };
};

/** The deployment that a device is on trial of, by its word. */
export const trialOf = ({ deployment }: Pick<Heartbeat, 'deployment'>): { trialOf?: Id } =>
  deployment !== null && TOLD[deployment.state] === 'trial' ? { trialOf: deployment.id } : {};

const rowOf = (
  device: DeviceRecord,
  report: StateReport,
  now: number,
  deployments: DeploymentRecord[],
  audit: AuditEvent[],
): ReportRow => ({
  device: device.id,
  publicKey: device.publicKey,
  boot: report.boot,
  seq: report.seq,
  // The server's clock: a device's own may be anywhere.
  at: now,
  agent: report.agent,
  running: report.running,
  floor: report.floor,
  attributes: report.attributes,
  ...trialOf(report),
  deployments,
  audit: audit.map(auditLine),
});

/**
 * Receipts are repeated until acknowledged; the log keeps each once. Asked only when a receipt moved nothing, which is
 * rare.
 */
const findStored = async (
  { store }: ReceiveDeps,
  { id, device, offers = 1 }: DeploymentRecord,
  signed: Signed,
): Promise<'stored' | 'new' | 'too-many'> => {
  let count = 0;
  for (const { payload } of await store.listDeviceAudit(device, { limit: AUDIT_LOOKBACK })) {
    const event = parseAuditEvent(payload);
    if (event?.kind !== 'receipt' || event.deployment !== id) continue;
    if (event.receipt.payload === signed.payload) return 'stored';
    count += 1;
  }
  return count < offers + RECEIPTS_SPARE_MAX ? 'new' : 'too-many';
};
