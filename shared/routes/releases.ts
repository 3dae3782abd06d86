/** Products, and how their releases come and move through the channels. */
import { z } from 'zod';
import { DurationMs, Id, ReleaseRef, Sha256, text } from '../ids.ts';
import { Manifest } from '../manifest.ts';
import { route } from '../route.ts';
import { ChangeView, Differences, ProductView, ReleaseView, RequirementsView } from '../views.ts';
import { ADMINISTER, OPERATE, PageQuery, PUBLISH, page, product, READ, release } from './parts.ts';

export const releasesApi = {
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
    // The metadata, with what JSON adds to a text that has quotes in it.
    bodyBytesMax: 6 * 1024 * 1024,
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
    summary: 'Say how a named check of a release ended; the latest result counts',
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
    summary: 'Approve a release for a channel; the person who published or promotes it does not count',
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
} as const;
