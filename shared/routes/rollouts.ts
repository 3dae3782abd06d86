/** Cohorts, and rollouts to them. */
import { z } from 'zod';
import { DEPLOYMENT_STATES } from '../deployment.ts';
import { ExplanationView } from '../explanation.ts';
import { Id, Millis, ReleaseRef, text, Version } from '../ids.ts';
import { CohortPlan, Policy } from '../policy.ts';
import { route } from '../route.ts';
import { CohortView, DeploymentView, NoticedView, QueuedView, RolloutView } from '../views.ts';
import { OPERATE, PageQuery, page, READ, rollout } from './parts.ts';

/** Counted before each is looked at: millions of wrong ones would take seconds to complain about. */
const COHORT_DEVICES = z.array(z.unknown()).min(1).max(100_000).pipe(z.array(Id));

export const rolloutsApi = {
  cohortCreate: route({
    method: 'POST',
    path: '/api/v1/cohorts',
    roles: OPERATE,
    tags: ['cohorts'],
    summary: 'Name a selection of devices',
    bodyBytesMax: 8 * 1024 * 1024,
    body: z.union([
      z.strictObject({ name: Id, devices: COHORT_DEVICES }),
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
    bodyBytesMax: 256 * 1024,
    body: z.strictObject({
      release: ReleaseRef,
      channel: Id.default(Id.parse('production')).meta({ examples: ['production'] }),
      cohorts: z.array(CohortPlan).min(1).max(32),
      policy: Policy.prefault({}),
      startAt: Millis.optional(),
      endBy: Millis.meta({ examples: [1_795_305_600_000] }).optional(),
    }),
    answer: NoticedView,
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
    summary: 'Offer to no one new until resumed',
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
    bodyBytesMax: 512 * 1024,
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
    summary: 'Approve a rollout that waits for it; its author cannot',
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
    answer: NoticedView,
  }),
} as const;
