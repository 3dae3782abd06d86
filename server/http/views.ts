/** From what the server remembers to what the API shows. Pure: everything that a view needs is given. */
import type { z } from 'zod';
import { DEPLOYMENT_STATES } from '#shared/deployment.ts';
import { releaseRef } from '#shared/ids.ts';
import { roleOfProduct } from '#shared/trust/delegation.ts';
import { keyIdOf } from '#shared/trust/keys.ts';
import type {
  AuditView,
  BundleView,
  CohortView,
  DeploymentView,
  DeviceView,
  OperatorView,
  ProductView,
  QueuedView,
  ReleaseView,
  RolloutView,
  StateCounts,
} from '#shared/views.ts';
import { parseAuditEvent, sentenceOf } from '../domain/audit.ts';
import type { DeploymentRecord } from '../domain/deployment/deployment.ts';
import { deviceProgressOf } from '../domain/deployment/device-progress.ts';
import { recalledOf } from '../domain/rollout/recall.ts';
import { keysOf } from '../flow/release/create-product.ts';
import type { Queued } from '../flow/rollout/queue-rollouts.ts';
import type { RolloutReport } from '../flow/rollout/report-rollout.ts';
import type { AuditEntry } from '../store/audit.ts';
import type { BundleRecord, ProductRecord, ReleaseRecord } from '../store/catalogue.ts';
import type { CohortRecord, DeviceRecord } from '../store/devices.ts';
import type { OperatorRecord } from '../store/operators.ts';

export const productView = (product: ProductRecord): z.infer<typeof ProductView> => {
  const keys = keysOf(product);
  return {
    name: product.name,
    keys: keys.map((key, index) => ({ keyId: keyIdOf(key), public: product.keys[index] ?? '' })),
    role: roleOfProduct(product.name),
    createdAt: product.createdAt,
  };
};

const bundleView = (bundle: BundleRecord): z.infer<typeof BundleView> => ({
  compatible: bundle.compatible,
  path: bundle.path,
  manifestSha256: bundle.manifestSha256,
  manifest: bundle.manifest,
  acceptedAt: bundle.acceptedAt,
  acceptedBy: bundle.acceptedBy,
});

export const releaseView = (release: ReleaseRecord): ReleaseView => ({
  release: releaseRef(release.product, release.version),
  product: release.product,
  version: release.version,
  progress: release.progress,
  acceptedAt: release.acceptedAt,
  bundles: release.bundles.map(bundleView),
});

export const deviceView = (device: DeviceRecord): DeviceView => ({
  id: device.id,
  state: device.state,
  publicKey: device.publicKey,
  compatible: device.compatible,
  tags: device.tags,
  attributes: device.attributes,
  agent: device.agent,
  running: device.running,
  floor: device.floor,
  online: device.online,
  healthy: device.healthy,
  enrolledAt: device.enrolledAt,
  lastSeenAt: device.lastSeenAt,
  deployment: device.deployment,
  keySharedAt: device.keySharedAt ?? null,
});

export const cohortView = (cohort: CohortRecord, devices: number): z.infer<typeof CohortView> => ({
  name: cohort.name,
  members: cohort.members,
  createdAt: cohort.createdAt,
  devices,
});

export const deploymentView = (deployment: DeploymentRecord): DeploymentView => ({
  id: deployment.id,
  rollout: deployment.rollout,
  device: deployment.device,
  cohort: deployment.cohort,
  compatible: deployment.compatible,
  wave: deployment.wave,
  state: deployment.state,
  did: deviceProgressOf(deployment),
  overdue: deployment.overdue,
  reached: reachedOf(deployment),
  offeredAt: deployment.offeredAt,
  acceptedAt: deployment.acceptedAt,
  decidedAt: deployment.decidedAt,
  stateAt: deployment.stateAt,
  error: deployment.error,
  attempts: attemptsOf(deployment),
});
/** What stays from before a deployment went on is no news. */
const reachedOf = ({ state, reached }: DeploymentRecord): DeploymentView['reached'] =>
  state === 'withdrawn' || state === 'overdue' ? (reached ?? null) : null;
const attemptsOf = ({ attempts }: DeploymentRecord): DeploymentView['attempts'] =>
  attempts === undefined ? null : { ended: attempts.ended, failed: attempts.failed, notBefore: attempts.notBefore };

export const rolloutView = (report: RolloutReport): RolloutView => {
  const { plan, progress } = report.rollout;
  const total = zeroCounts();
  const waves = plan.waveSizes.map((devices) => ({ devices, counts: zeroCounts() }));
  for (const { wave, state, devices } of report.counts) {
    total[state] += devices;
    const counts = waves[wave]?.counts;
    if (counts !== undefined) counts[state] += devices;
  }
  return {
    id: plan.id,
    release: releaseRef(plan.product, plan.version),
    channel: plan.channel,
    cohorts: plan.cohorts,
    policy: plan.policy,
    createdAt: plan.createdAt,
    createdBy: plan.createdBy,
    state: progress.state,
    approval:
      progress.state === 'awaiting-approval' ? { needed: progress.needed, approvedBy: progress.approvedBy } : null,
    endBy: plan.endBy ?? null,
    activatedAt: plan.activatedAt ?? null,
    explanation: report.explanation,
    wave: 'wave' in progress ? progress.wave : null,
    devices: plan.waveSizes.reduce((sum, devices) => sum + devices, 0),
    excluded: plan.excluded ?? 0,
    belowFloor: plan.belowFloor ?? 0,
    untouched: report.untouched,
    counts: total,
    overdue: overdueOf(report.counts),
    coolingDown: report.coolingDown ?? null,
    waves,
    recalls: plan.recalls ?? null,
    recall: recallOf(report),
  };
};
const recallOf = ({ rollout, recall }: RolloutReport): RolloutView['recall'] => {
  const recalled = recalledOf(rollout.progress);
  if (recalled === undefined || recall === undefined) return null;
  const { at, by, note, to } = recalled;
  const release = to === undefined ? null : releaseRef(rollout.plan.product, to.version);
  return { at, by, note, to: release, rollouts: recall.rollouts, stays: recall.stays };
};

const overdueOf = (counts: RolloutReport['counts']): RolloutView['overdue'] => {
  const rows: RolloutView['overdue'] = [];
  for (const { overdue, reached, devices } of counts) {
    if (overdue === null || reached === null) continue;
    const known = rows.find((row) => row.class === overdue && row.reached === reached);
    if (known === undefined) rows.push({ class: overdue, reached, devices });
    else known.devices += devices;
  }
  return rows;
};

export const queuedView = (queued: Queued): z.infer<typeof QueuedView> => ({
  ...rolloutView(queued),
  priority: queued.rollout.plan.policy.priority,
  waitsFor: queued.waitsFor,
});

const zeroCounts = (): StateCounts => {
  const counts: Partial<StateCounts> = {};
  for (const state of DEPLOYMENT_STATES) counts[state] = 0;
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the loop has just filled in every state
  return counts as StateCounts;
};

/** A line that this version can't read (written by a newer one) is shown as it is: the log is never hidden. */
export const auditView = (entry: AuditEntry): z.infer<typeof AuditView> => {
  const event = parseAuditEvent(entry.payload);
  return {
    index: entry.index,
    at: event?.at ?? 0,
    by: event?.by ?? 'unknown',
    kind: event?.kind ?? 'unknown',
    sentence:
      event === undefined ? `An entry of a kind that this version does not know: ${entry.payload}` : sentenceOf(event),
    payload: entry.payload,
  };
};

export const operatorView = (operator: OperatorRecord): z.infer<typeof OperatorView> => ({
  name: operator.name,
  role: operator.role,
  createdAt: operator.createdAt,
  revokedAt: operator.revokedAt,
});
