/** The operators' API under /api/v1: every request and every route. What they answer with: views.ts. */
import { z } from 'zod';
import { DEPLOYMENT_STATES } from './deployment.ts';
import { ExplanationView } from './explanation.ts';
import { DurationMs, Id, Millis, ReleaseRef, Sha256, text, Version } from './ids.ts';
import { Manifest } from './manifest.ts';
import { CohortPlan, Policy } from './policy.ts';
import { route } from './route.ts';
import {
  AuditView,
  ChangeView,
  CohortView,
  DeploymentView,
  DeviceLogView,
  DeviceView,
  Differences,
  DriftView,
  HistoryView,
  OperatorView,
  PlannedView,
  ProductView,
  QueuedView,
  ReleaseView,
  RequirementsView,
  RolloutView,
  Tags,
} from './views.ts';

/** Lists are pages: pass `next` as `after` to get on; it is null on the last page. */
const page = <S extends z.ZodType>(item: S) => z.object({ items: z.array(item), next: z.string().nullable() });
const PageQuery = {
  after: z.string().max(256).optional(),
  limit: z.coerce.number().int().min(1).max(1000).default(100),
};
const Empty = z.object({});

const product = { params: z.object({ product: Id }) };
const release = { params: z.object({ release: ReleaseRef }) };
const device = { params: z.object({ device: Id }) };
const rollout = { params: z.object({ rollout: Id }) };
const READ = ['admin', 'operator', 'ci', 'viewer'] as const;
const OPERATE = ['admin', 'operator'] as const;
const PUBLISH = ['admin', 'operator', 'ci'] as const;
const ADMINISTER = ['admin'] as const;

export const routes = {
  whoami: route({
    method: 'GET',
    path: '/api/v1/whoami',
    roles: READ,
    tags: ['operators'],
    summary: 'Who the token belongs to',
    answer: z.object({ name: z.string(), role: z.string(), server: z.string() }),
  }),
  operatorCreate: route({
    method: 'POST',
    path: '/api/v1/operators',
    roles: ADMINISTER,
    tags: ['operators'],
    summary: 'Make an operator and its token, which is shown only now',
    body: z.strictObject({ name: Id, role: z.enum(['admin', 'operator', 'ci', 'viewer']) }),
    answer: z.object({ name: z.string(), role: z.string(), token: z.string() }),
    success: 201,
  }),
  operatorList: route({
    method: 'GET',
    path: '/api/v1/operators',
    roles: ADMINISTER,
    tags: ['operators'],
    summary: 'The operators',
    answer: z.object({ items: z.array(OperatorView) }),
  }),
  operatorRevoke: route({
    method: 'DELETE',
    path: '/api/v1/operators/:name',
    roles: ADMINISTER,
    tags: ['operators'],
    summary: 'Revoke an operator and its token',
    params: z.object({ name: Id }),
    answer: Empty,
  }),

  productCreate: route({
    method: 'POST',
    path: '/api/v1/products',
    roles: ADMINISTER,
    tags: ['products'],
    summary: 'Make a product and delegate its signing to the CI keys',
    body: z.strictObject({
      name: Id,
      keys: z
        .array(z.string().min(32).max(4096).describe('public key: PEM (SPKI), Ed25519 or RSA of 3072 bits or more'))
        .min(1)
        .max(8),
    }),
    answer: ProductView,
    success: 201,
  }),
  productList: route({
    method: 'GET',
    path: '/api/v1/products',
    roles: READ,
    tags: ['products'],
    summary: 'The products',
    answer: z.object({ items: z.array(ProductView) }),
  }),
  productDelegation: route({
    method: 'GET',
    path: '/api/v1/products/:product/delegation',
    roles: READ,
    tags: ['products'],
    summary: 'The newest accepted metadata of the CI role, to which the next publication adds',
    ...product,
    answer: z.object({
      role: z.string(),
      version: z.number().int(),
      document: z.string().nullable(),
      keys: z.array(Sha256),
      expiresInMs: DurationMs,
    }),
  }),

  uploadPut: route({
    method: 'PUT',
    path: '/api/v1/uploads/:sha256',
    roles: PUBLISH,
    tags: ['releases'],
    summary: 'Upload a bundle; it is checked as it streams, and forgotten unless published within an hour',
    params: z.object({ sha256: Sha256 }),
    body: 'stream',
    answer: z.object({ upload: Sha256, bytes: z.number().int(), manifestSha256: Sha256, manifest: Manifest }),
    success: 201,
  }),
  releasePublish: route({
    method: 'POST',
    path: '/api/v1/releases',
    roles: PUBLISH,
    tags: ['releases'],
    summary: 'Accept uploaded bundles of one release, signed by CI',
    body: z.strictObject({
      uploads: z.array(Sha256).min(1).max(16),
      metadata: z
        .string()
        .min(2)
        .max(2_000_000)
        .describe('the new signed TUF metadata of the CI role, which lists the manifests'),
    }),
    answer: ReleaseView,
    success: 201,
  }),
  releaseList: route({
    method: 'GET',
    path: '/api/v1/releases',
    roles: READ,
    tags: ['releases'],
    summary: 'Releases, newest first',
    query: z.object({ ...PageQuery, product: Id.optional() }),
    answer: page(ReleaseView),
  }),
  releaseShow: route({
    method: 'GET',
    path: '/api/v1/releases/:release',
    roles: READ,
    tags: ['releases'],
    summary: 'One release',
    ...release,
    answer: ReleaseView,
  }),
  releaseStage: route({
    method: 'POST',
    path: '/api/v1/releases/:release/stage',
    roles: PUBLISH,
    tags: ['releases'],
    summary: 'Make an accepted release offerable in a channel',
    ...release,
    body: z.strictObject({ channel: Id }),
    answer: ReleaseView,
  }),
  releasePromote: route({
    method: 'POST',
    path: '/api/v1/releases/:release/promote',
    roles: PUBLISH,
    tags: ['releases'],
    summary: 'Take a release from one channel to the next: the same bytes, when the channel has all it requires',
    ...release,
    body: z.strictObject({ to: Id }),
    answer: ReleaseView,
  }),
  releaseRequirements: route({
    method: 'GET',
    path: '/api/v1/releases/:release/requirements',
    roles: READ,
    tags: ['releases'],
    summary: 'What each channel requires of a release, and what of it is missing',
    ...release,
    answer: RequirementsView,
  }),
  releaseCheck: route({
    method: 'PUT',
    path: '/api/v1/releases/:release/checks/:check',
    roles: PUBLISH,
    tags: ['releases'],
    summary: 'Say how a named check of a release ended; the newest word counts',
    params: z.object({ release: ReleaseRef, check: Id }),
    body: z.strictObject({
      outcome: z.enum(['pass', 'fail']),
      link: z
        .url({ protocol: /^https?$/ })
        .max(1024)
        .optional(),
    }),
    answer: RequirementsView,
  }),
  releaseApprove: route({
    method: 'POST',
    path: '/api/v1/releases/:release/approve',
    roles: OPERATE,
    tags: ['releases'],
    summary: 'Approve a release for a channel; whoever published or promotes it does not count',
    ...release,
    body: z.strictObject({ channel: Id, note: text(512).default('') }),
    answer: RequirementsView,
  }),
  releaseWithdraw: route({
    method: 'POST',
    path: '/api/v1/releases/:release/withdraw',
    roles: OPERATE,
    tags: ['releases'],
    summary: 'Take a release back: no rollout may offer it again, and those that do halt',
    ...release,
    body: z.strictObject({ reason: text(512).min(1) }),
    answer: ReleaseView,
  }),

  releaseDiff: route({
    method: 'GET',
    path: '/api/v1/releases/:release/diff/:other',
    roles: READ,
    tags: ['releases'],
    summary:
      'The changes that the other release contains and this one does not, and the reverse, each with its hardware',
    params: z.object({ release: ReleaseRef, other: ReleaseRef }),
    answer: z.object({ from: ReleaseRef, to: ReleaseRef, added: Differences, removed: Differences }),
  }),
  changeShow: route({
    method: 'GET',
    path: '/api/v1/changes/:change',
    roles: READ,
    tags: ['changes'],
    summary: 'Which releases contain a change, in which channels, and on what share of the fleet it runs',
    params: z.object({ change: text(128).min(1) }),
    answer: ChangeView,
  }),
  changeDevices: route({
    method: 'GET',
    path: '/api/v1/changes/:change/devices',
    roles: READ,
    tags: ['changes'],
    summary: 'The accepted devices that run a bundle with the change, by id',
    params: z.object({ change: text(128).min(1) }),
    query: z.object(PageQuery),
    answer: page(z.object({ device: Id, release: ReleaseRef, compatible: Id, online: z.boolean() })),
  }),

  deviceList: route({
    method: 'GET',
    path: '/api/v1/devices',
    roles: READ,
    tags: ['devices'],
    summary: 'Devices, by id',
    query: z.object({
      ...PageQuery,
      state: z.enum(['pending', 'accepted', 'rejected']).optional(),
      selector: z.string().max(1024).optional(),
    }),
    answer: page(DeviceView),
  }),
  deviceShow: route({
    method: 'GET',
    path: '/api/v1/devices/:device',
    roles: READ,
    tags: ['devices'],
    summary: 'One device',
    ...device,
    answer: DeviceView,
  }),
  deviceHistory: route({
    method: 'GET',
    path: '/api/v1/devices/:device/history',
    roles: READ,
    tags: ['devices'],
    summary: 'Which release ran when, from signed receipts',
    ...device,
    query: z.object(PageQuery),
    answer: HistoryView,
  }),
  deviceLogs: route({
    method: 'GET',
    path: '/api/v1/devices/:device/logs',
    roles: READ,
    tags: ['devices'],
    summary:
      'What the device and its application last wrote before failures, newest first; the text is only its word, and may hold anything',
    ...device,
    query: z.object({ ...PageQuery, deployment: Id.optional() }),
    answer: page(DeviceLogView),
  }),
  deviceAccept: route({
    method: 'POST',
    path: '/api/v1/devices/:device/accept',
    roles: OPERATE,
    tags: ['devices'],
    summary: 'Let a pending device in',
    ...device,
    answer: DeviceView,
  }),
  deviceReject: route({
    method: 'POST',
    path: '/api/v1/devices/:device/reject',
    roles: OPERATE,
    tags: ['devices'],
    summary: 'Keep a device out, connected or not',
    ...device,
    answer: DeviceView,
  }),
  driftList: route({
    method: 'GET',
    path: '/api/v1/drift',
    roles: READ,
    tags: ['devices'],
    summary: 'Devices that run what nobody told them to run, by id',
    query: z.object(PageQuery),
    answer: page(DriftView),
  }),
  driftReconcile: route({
    method: 'POST',
    path: '/api/v1/drift/reconcile',
    roles: OPERATE,
    tags: ['devices'],
    summary: 'Send drifted devices back to what they should run: one rollout for each release',
    body: z.strictObject({ devices: z.array(Id).min(1).max(1000) }),
    answer: z.object({ items: z.array(RolloutView) }),
    success: 201,
  }),
  deviceAdopt: route({
    method: 'POST',
    path: '/api/v1/devices/:device/adopt',
    roles: OPERATE,
    tags: ['devices'],
    summary: 'Make what a drifted device runs what it should run',
    ...device,
    body: z.strictObject({ note: text(512).default('') }),
    answer: DriftView,
  }),
  deviceTag: route({
    method: 'PATCH',
    path: '/api/v1/devices/:device/tags',
    roles: OPERATE,
    tags: ['devices'],
    summary: 'Set tags; an empty value removes one',
    ...device,
    body: z.strictObject({ tags: Tags }),
    answer: DeviceView,
  }),
  enrolmentTokenCreate: route({
    method: 'POST',
    path: '/api/v1/enrolment-tokens',
    roles: OPERATE,
    tags: ['devices'],
    summary: 'Make single-use enrolment tokens, shown only now; each carries the digest of the trust root',
    body: z.strictObject({
      count: z.number().int().min(1).max(1000).default(1),
      device: Id.optional(),
      tags: Tags.default({}),
      expiresInMs: DurationMs.min(1000).default(86_400_000),
    }),
    answer: z.object({ tokens: z.array(z.string()), expiresAt: Millis }),
    success: 201,
  }),

  cohortCreate: route({
    method: 'POST',
    path: '/api/v1/cohorts',
    roles: OPERATE,
    tags: ['cohorts'],
    summary: 'Name a selection of devices',
    body: z.union([
      z.strictObject({ name: Id, devices: z.array(Id).min(1).max(100_000) }),
      z.strictObject({ name: Id, selector: z.string().min(1).max(1024) }),
    ]),
    answer: CohortView,
    success: 201,
  }),
  cohortList: route({
    method: 'GET',
    path: '/api/v1/cohorts',
    roles: READ,
    tags: ['cohorts'],
    summary: 'The cohorts',
    answer: z.object({ items: z.array(CohortView) }),
  }),
  cohortShow: route({
    method: 'GET',
    path: '/api/v1/cohorts/:cohort',
    roles: READ,
    tags: ['cohorts'],
    summary: 'One cohort',
    params: z.object({ cohort: Id }),
    answer: CohortView,
  }),

  rolloutCreate: route({
    method: 'POST',
    path: '/api/v1/rollouts',
    roles: OPERATE,
    tags: ['rollouts'],
    summary: 'Plan a rollout: freeze its cohorts, cut its waves, and start',
    body: z.strictObject({
      release: ReleaseRef,
      channel: Id.default(Id.parse('production')),
      cohorts: z.array(CohortPlan).min(1).max(32),
      policy: Policy.prefault({}),
      startAt: Millis.optional(),
      endBy: Millis.optional(),
    }),
    answer: PlannedView,
    success: 201,
  }),
  rolloutList: route({
    method: 'GET',
    path: '/api/v1/rollouts',
    roles: READ,
    tags: ['rollouts'],
    summary: 'Rollouts, newest first',
    query: z.object(PageQuery),
    answer: page(RolloutView),
  }),
  rolloutShow: route({
    method: 'GET',
    path: '/api/v1/rollouts/:rollout',
    roles: READ,
    tags: ['rollouts'],
    summary: 'One rollout',
    ...rollout,
    answer: RolloutView,
  }),
  rolloutDeployments: route({
    method: 'GET',
    path: '/api/v1/rollouts/:rollout/deployments',
    roles: READ,
    tags: ['rollouts'],
    summary: 'Where every device of the rollout is',
    ...rollout,
    query: z.object({ ...PageQuery, state: z.enum(DEPLOYMENT_STATES).optional() }),
    answer: page(DeploymentView),
  }),
  rolloutExplain: route({
    method: 'GET',
    path: '/api/v1/rollouts/:rollout/explain',
    roles: READ,
    tags: ['rollouts'],
    summary:
      'Why it is where it is, now and at each decision so far, newest first: in words, and with every figure that it was made from',
    ...rollout,
    query: z.object({
      ...PageQuery,
      limit: z.coerce.number().int().min(1).max(200).default(20),
      verify: z
        .enum(['true', 'false'])
        .default('false')
        .describe('make each decision again from its recorded inputs, and hold it against the audit log'),
    }),
    answer: ExplanationView,
  }),
  rolloutPause: route({
    method: 'POST',
    path: '/api/v1/rollouts/:rollout/pause',
    roles: OPERATE,
    tags: ['rollouts'],
    summary: 'Offer to nobody new until resumed',
    ...rollout,
    body: z.strictObject({ note: text(512).default('') }),
    answer: RolloutView,
  }),
  rolloutResume: route({
    method: 'POST',
    path: '/api/v1/rollouts/:rollout/resume',
    roles: OPERATE,
    tags: ['rollouts'],
    summary: 'Go on after a pause',
    ...rollout,
    body: z.strictObject({
      note: text(512).default(''),
      acknowledgeFailures: z
        .union([z.literal('all'), z.array(Id).min(1).max(5_000)])
        .optional()
        .describe(
          'devices whose failures no longer count; after a halt, unless told otherwise, all that failed so far',
        ),
    }),
    answer: RolloutView,
  }),
  rolloutApprove: route({
    method: 'POST',
    path: '/api/v1/rollouts/:rollout/approve',
    roles: OPERATE,
    tags: ['rollouts'],
    summary: 'Approve a rollout that waits for it; its author can not',
    ...rollout,
    body: z.strictObject({ note: text(512).default('') }),
    answer: RolloutView,
  }),
  rolloutActivate: route({
    method: 'POST',
    path: '/api/v1/rollouts/:rollout/activate',
    roles: OPERATE,
    tags: ['rollouts'],
    summary: 'Let every device that has installed the release activate it, and those that install it later too',
    ...rollout,
    body: z.strictObject({ note: text(512).default('') }),
    answer: RolloutView,
  }),
  rolloutQueue: route({
    method: 'GET',
    path: '/api/v1/rollout-queue',
    roles: READ,
    tags: ['rollouts'],
    summary: 'Rollouts that are not over, in the order in which they get devices, and whom each waits for',
    answer: z.object({ items: z.array(QueuedView) }),
  }),
  rolloutAbort: route({
    method: 'POST',
    path: '/api/v1/rollouts/:rollout/abort',
    roles: OPERATE,
    tags: ['rollouts'],
    summary: 'End a rollout for good: offers not acted on are withdrawn, trials in progress finish',
    ...rollout,
    body: z.strictObject({ note: text(512).default('') }),
    answer: RolloutView,
  }),

  rolloutRecall: route({
    method: 'POST',
    path: '/api/v1/rollouts/:rollout/recall',
    roles: OPERATE,
    tags: ['rollouts'],
    summary: 'Send the devices that run its release because of it back to what each ran before, or all to one release',
    ...rollout,
    body: z.strictObject({ note: text(512).default(''), to: Version.optional() }),
    answer: RolloutView,
  }),

  auditList: route({
    method: 'GET',
    path: '/api/v1/audit',
    roles: READ,
    tags: ['audit'],
    summary: 'The audit log, oldest first',
    query: z.object(PageQuery),
    answer: page(AuditView),
  }),
} as const;

/** `GET /api/v1/audit/export` streams newline-delimited JSON for offline verification; see shared/trust/audit-export.ts. */
export const AUDIT_EXPORT_PATH = '/api/v1/audit/export';
