/** What the operators' API answers with: one view for each noun. */
import { z } from 'zod';
import { DEPLOYMENT_STATES, DeviceError, DID, OVERDUE_CLASSES, Running } from './deployment.ts';
import { Id, Millis, ReleaseRef, Sha256, text, Version } from './ids.ts';
import { Manifest } from './manifest.ts';
import { CohortPlan, Policy } from './policy.ts';
import { STAY_REASONS } from './recall.ts';

export const Tags = z
  .record(z.string().regex(/^[a-z][a-z0-9_-]{0,63}$/), text(128))
  .refine((tags) => Object.keys(tags).length <= 64, 'at most 64 tags');

export const ProductView = z.object({
  name: Id,
  keys: z.array(z.object({ keyId: Sha256, public: z.string() })),
  role: z.string(),
  createdAt: Millis,
});
export const BundleView = z.object({
  compatible: Id,
  path: z.string(),
  manifestSha256: Sha256,
  manifest: Manifest,
  acceptedAt: Millis,
  acceptedBy: z.string(),
});
export const ReleaseView = z.object({
  release: ReleaseRef,
  product: Id,
  version: Version,
  progress: z.discriminatedUnion('state', [
    z.object({ state: z.literal('accepted') }),
    z.object({ state: z.literal('staged'), channels: z.array(Id) }),
    z.object({ state: z.literal('withdrawn'), at: Millis, by: z.string(), reason: z.string() }),
  ]),
  acceptedAt: Millis,
  bundles: z.array(BundleView),
});
export type ReleaseView = z.infer<typeof ReleaseView>;

/** What each channel requires of a release, in the order in which it is promoted, and what was said of it so far. */
export const RequirementsView = z.object({
  release: ReleaseRef,
  channels: z.array(
    z.object({
      channel: Id,
      staged: z.boolean(),
      /** Whether nothing is missing. */
      met: z.boolean(),
      requirements: z.array(
        z.object({
          kind: z.enum(['rollout', 'soak', 'check', 'sbom', 'approvals']),
          /** Of the kind `check`: its name; the word on it so far is in `checks`. */
          check: Id.optional(),
          met: z.boolean(),
          sentence: z.string(),
        }),
      ),
    }),
  ),
  checks: z.array(
    z.object({
      check: Id,
      outcome: z.enum(['pass', 'fail']),
      link: z.string().nullable(),
      at: Millis,
      by: z.string(),
    }),
  ),
  approvals: z.array(z.object({ channel: Id, by: z.string(), note: z.string(), at: Millis })),
});
export type RequirementsView = z.infer<typeof RequirementsView>;

export const ChangeView = z.object({
  change: z.string(),
  /** Newest first. */
  releases: z.array(
    z.object({
      release: ReleaseRef,
      state: z.enum(['accepted', 'staged', 'withdrawn']),
      channels: z.array(Id),
      /** The bundles that contain it, and on how many devices each runs. */
      bundles: z.array(z.object({ compatible: Id, devices: z.number().int() })),
    }),
  ),
  /** Accepted devices that run a bundle with the change, of how many accepted devices. */
  running: z.number().int(),
  fleet: z.number().int(),
  /** From 0 to 1. */
  share: z.number(),
});
export const Differences = z.array(z.object({ change: z.string(), compatibles: z.array(Id) }));

/** One piece of the last lines before a failure. `text` is as the device sent it. */
export const DeviceLogView = z.object({
  id: Id,
  deployment: Id.nullable(),
  source: z.enum(['application', 'agent']),
  part: z.number().int(),
  parts: z.number().int(),
  boot: Id,
  /** By the device's clock, and by the server's. */
  at: Millis,
  receivedAt: Millis,
  text: z.string(),
});
export type DeviceLogView = z.infer<typeof DeviceLogView>;

export const DeviceView = z.object({
  id: Id,
  state: z.enum(['pending', 'accepted', 'rejected']),
  publicKey: z.string(),
  compatible: Id,
  tags: Tags,
  attributes: z.record(z.string(), z.string()),
  agent: z.string().nullable(),
  running: Running.nullable(),
  floor: z.number().int(),
  online: z.boolean(),
  healthy: z.boolean().nullable(),
  enrolledAt: Millis,
  lastSeenAt: Millis.nullable(),
  deployment: Id.nullable(),
  /** When two devices were last seen to use its key; null: never, since it has that key or was let in. */
  keySharedAt: Millis.nullable(),
});
export type DeviceView = z.infer<typeof DeviceView>;

/** A device that runs what no one told it to run. */
export const DriftView = z.object({
  device: Id,
  expected: Running,
  running: Running,
  since: Millis,
  online: z.boolean(),
});

export const CohortView = z.object({
  name: Id,
  members: z.discriminatedUnion('kind', [
    z.object({ kind: z.literal('list'), devices: z.array(Id) }),
    z.object({ kind: z.literal('selector'), selector: z.string() }),
  ]),
  createdAt: Millis,
  /** How many accepted devices are in it at this moment. */
  devices: z.number().int(),
});

export const DeploymentView = z.object({
  id: Id,
  rollout: Id,
  device: Id,
  cohort: Id,
  compatible: Id,
  wave: z.number().int(),
  state: z.enum(DEPLOYMENT_STATES),
  /** How far the device came: of a withdrawn one when its offer was withdrawn; `unknown` of one that fell silent. */
  did: z.enum(DID),
  overdue: z.enum(OVERDUE_CLASSES).nullable(),
  /** Of a withdrawn or overdue one: the state it was in before. */
  reached: z.enum(DEPLOYMENT_STATES).nullable(),
  offeredAt: Millis.nullable(),
  acceptedAt: Millis.nullable(),
  decidedAt: Millis.nullable(),
  stateAt: Millis,
  error: DeviceError.nullable(),
  /** After an attempt that is to be repeated: how many ended, how many of them failed, and when the next may begin. */
  attempts: z.object({ ended: z.number().int(), failed: z.number().int(), notBefore: Millis.nullable() }).nullable(),
});
export type DeploymentView = z.infer<typeof DeploymentView>;

export const StateCounts = z.record(z.enum(DEPLOYMENT_STATES), z.number().int());
export type StateCounts = z.infer<typeof StateCounts>;

export const RolloutView = z.object({
  id: Id,
  release: ReleaseRef,
  channel: Id,
  cohorts: z.array(CohortPlan),
  policy: Policy,
  createdAt: Millis,
  createdBy: z.string(),
  state: z.enum(['draft', 'awaiting-approval', 'scheduled', 'running', 'paused', 'halted', 'completed', 'aborted']),
  /** While it waits for approvals: how many, and whose count so far. */
  approval: z.object({ needed: z.number().int(), approvedBy: z.array(z.string()) }).nullable(),
  /** It is over by then, done or not. */
  endBy: Millis.nullable(),
  /** When a person said that everyone may activate. */
  activatedAt: Millis.nullable(),
  /** One sentence for people: why it is where it is, and what it waits for. */
  explanation: z.string(),
  /** The present wave, from 0; null before the first and after the last. */
  wave: z.number().int().nullable(),
  devices: z.number().int(),
  /**
   * Devices that the cohorts mean, but that were left out when planning: unknown, not let in, or without a bundle for
   * their compatible.
   */
  excluded: z.number().int(),
  /** Of the excluded: devices that have committed a higher security counter than the release has. */
  belowFloor: z.number().int(),
  /** Devices that never began to act on an offer: planned, withdrawn or overdue before they accepted. */
  untouched: z.number().int(),
  counts: StateCounts,
  /** The overdue among them, by class and by the state they did not get beyond. */
  overdue: z.array(
    z.object({ class: z.enum(OVERDUE_CLASSES), reached: z.enum(DEPLOYMENT_STATES), devices: z.number().int() }),
  ),
  /**
   * Of the planned: devices that wait for another attempt after one that ended, and when the first of them may begin.
   */
  coolingDown: z.object({ devices: z.number().int(), next: Millis }).nullable(),
  waves: z.array(z.object({ devices: z.number().int(), counts: StateCounts })),
  /** The rollout whose devices it takes back. */
  recalls: Id.nullable(),
  /** Not null when it was recalled itself. `to`: null for what each device ran before. */
  recall: z
    .object({
      at: Millis,
      by: z.string(),
      note: z.string(),
      to: ReleaseRef.nullable(),
      rollouts: z.array(z.object({ id: Id, release: ReleaseRef, devices: z.number().int() })),
      /** Who cannot go back; at most 20 devices of each reason by name. */
      stays: z.array(
        z.object({ reason: z.enum(STAY_REASONS), why: z.string(), devices: z.number().int(), named: z.array(Id) }),
      ),
    })
    .nullable(),
});
export type RolloutView = z.infer<typeof RolloutView>;
/** The answer to a plan or a recall. `notices`: what of that is not as may have been meant, each one sentence. */
export const NoticedView = z.object({ ...RolloutView.shape, notices: z.array(z.string()) });
/** A rollout in the queue. `waitsFor`: how many of its planned devices other rollouts have, or come first for. */
export const QueuedView = z.object({
  ...RolloutView.shape,
  priority: z.number().int(),
  waitsFor: z.array(z.object({ rollout: Id, devices: z.number().int() })),
});

export const AuditView = z.object({
  index: z.number().int(),
  at: Millis,
  by: z.string(),
  kind: z.string(),
  sentence: z.string(),
  payload: z.string(),
});
export const HistoryView = z.object({
  device: Id,
  /** Newest first. */
  entries: z.array(
    z.object({
      index: z.number().int(),
      at: Millis,
      kind: z.string(),
      sentence: z.string(),
      release: ReleaseRef.nullable(),
      outcome: z.string().nullable(),
      /** A receipt whose device signature was checked again for this answer. */
      verified: z.boolean().nullable(),
    }),
  ),
  next: z.string().nullable(),
});
export const OperatorView = z.object({
  name: z.string(),
  role: z.enum(['admin', 'operator', 'ci', 'viewer']),
  createdAt: Millis,
  revokedAt: Millis.nullable(),
});
