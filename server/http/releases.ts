import type { FastifyInstance } from 'fastify';
import { routes } from '#shared/api.ts';
import { Id, releaseRef, Version } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import type { Channel } from '../domain/release/channel.ts';
import type { Uploads } from '../flow/release/accept-upload.ts';
import type { Packs } from '../flow/release/packs.ts';
import { publishRelease } from '../flow/release/publish-release.ts';
import { stageRelease } from '../flow/release/stage-release.ts';
import type { Rollouts } from '../flow/rollout/rollouts.ts';
import type { RunDeps } from '../flow/rollout/run-rollout.ts';
import { withdrawRelease } from '../flow/rollout/withdraw-release.ts';
import type { ReleaseRecord } from '../store/catalogue.ts';
import type { Objects } from '../store/objects.ts';
import type { Repository } from '../trust/repository.ts';
import { handle } from './app.ts';
import { pageOf } from './page.ts';
import { releaseView } from './views.ts';

type ReleaseDeps = RunDeps & {
  objects: Objects;
  repository: Repository;
  uploads: Uploads;
  rollouts: Pick<Rollouts, 'wake'>;
  packs: Pick<Packs, 'wake'>;
  channels: readonly Channel[];
};

export const releaseRoutes = (app: FastifyInstance, deps: ReleaseDeps): void => {
  handle(app, routes.uploadPut, async ({ params, body, who }) => {
    const upload = await deps.uploads.accept({ sha256: params.sha256, body, by: who.name });
    if (!upload.ok) return upload;
    const { sha256, bytes, manifestSha256, manifest } = upload.value;
    return accept({ upload: sha256, bytes, manifestSha256, manifest });
  });
  handle(app, routes.releasePublish, async ({ body, who }) =>
    viewOf(await publishRelease(deps, { ...body, by: who.name })),
  );
  handle(app, routes.releaseList, async ({ query }) =>
    accept(
      pageOf(
        await deps.store.listReleases({ product: query.product }, query),
        query.limit,
        (release) => releaseRef(release.product, release.version),
        releaseView,
      ),
    ),
  );
  handle(app, routes.releaseShow, async ({ params }) => {
    const name = parseReleaseRef(params.release);
    const release = name.ok ? await deps.store.getRelease(name.value.product, name.value.version) : undefined;
    return release === undefined
      ? refuse('not-found', `there is no release ${params.release}`)
      : accept(releaseView(release));
  });
  handle(app, routes.releaseStage, async ({ params, body, who }) => {
    const name = parseReleaseRef(params.release);
    if (!name.ok) return name;
    const staged = await stageRelease(deps, { ...name.value, channel: body.channel, by: who.name });
    deps.packs.wake();
    return viewOf(staged);
  });
  handle(app, routes.releaseWithdraw, async ({ params, body, who }) => {
    const name = parseReleaseRef(params.release);
    if (!name.ok) return name;
    return viewOf(await withdrawRelease(deps, { ...name.value, reason: body.reason, by: who.name }));
  });
};

/** `product@version`, taken apart. A version that is none can't name a release, so that is `not-found`. */
export const parseReleaseRef = (ref: string): Result<{ product: Id; version: string }> => {
  const at = ref.indexOf('@');
  const product = Id.safeParse(ref.slice(0, at));
  const version = Version.safeParse(ref.slice(at + 1));
  return product.success && version.success
    ? accept({ product: product.data, version: version.data })
    : refuse('not-found', `there is no release ${ref}`);
};

const viewOf = (release: Result<ReleaseRecord>) => (release.ok ? accept(releaseView(release.value)) : release);
