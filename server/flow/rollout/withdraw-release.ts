/** Takes a release back: recorded first, so that no new rollout can offer it, then its rollouts are halted. */

import { auditLine } from '#server/domain/audit.ts';
import type { ReleaseRecord } from '#server/store/catalogue.ts';
import { type Id, releaseRef } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { everyPage } from '../every-page.ts';
import { type RunDeps, runRollout } from './run-rollout.ts';

/**
 * A crash in between is mended by the next tick: a rollout looks at its release each time. Withdrawing again is
 * answered with what is there. Devices that committed the release keep running it until another is rolled out.
 * Refusals: `not-found`, `conflict`.
 */
export const withdrawRelease = async (
  deps: RunDeps & { rollouts: { wake(): void } },
  input: { product: Id; version: string; reason: string; by: string },
): Promise<Result<ReleaseRecord>> => {
  const name = releaseRef(input.product, input.version);
  const release = await deps.store.getRelease(input.product, input.version);
  if (release === undefined) return refuse('not-found', `there is no release ${name}`);
  const { product, version, reason, by } = input;
  const at = deps.now();
  const withdrawn =
    release.progress.state === 'withdrawn' ? release.progress : { state: 'withdrawn' as const, at, by, reason };
  if (release.progress.state !== 'withdrawn') {
    const line = auditLine({ at, by, kind: 'release-withdrawn', product, version, reason });
    const saved = await deps.store.saveRelease(product, version, release.progress, withdrawn, line);
    if (saved === 'conflict') return refuse('conflict', `${name} changed in between; look at it, then try again`);
  }
  const rollouts = everyPage(
    (page) => deps.store.listRollouts(page),
    (rollout) => rollout.plan.id,
  );
  for await (const { plan, progress } of rollouts) {
    const over = progress.state === 'completed' || progress.state === 'aborted';
    if (!over && plan.product === product && plan.version === version) await runRollout(deps, plan.id);
  }
  deps.rollouts.wake();
  return accept({ ...release, progress: withdrawn });
};
