/** Makes an accepted release offerable in a channel: from here on devices can verify it, and rollouts may offer it. */

import { auditLine } from '#server/domain/audit.ts';
import { findChannel } from '#server/domain/release/channel.ts';
import type { ReleaseRecord } from '#server/store/catalogue.ts';
import type { Store } from '#server/store/store.ts';
import type { Repository } from '#server/trust/repository.ts';
import type { Id } from '#shared/ids.ts';
import { releaseRef } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { checkRequirements, findOpenRelease, noChannel, type PromotionDeps } from './promote-release.ts';

type StageDeps = PromotionDeps & {
  store: Pick<Store, 'saveRelease' | 'getDelegationMetadata'>;
  repository: Repository;
};

/**
 * The server's countersignature comes first (the CI metadata goes under snapshot and timestamp), the record second:
 * published but not recorded is harmless and mended by repeating, the other way round devices would be offered what
 * they can't verify. Staging twice in a channel is answered with what is there.
 * Refusals: `invalid-request` (no such channel), `not-found`, `conflict` (withdrawn), `requirements-unmet`.
 */
export const stageRelease = async (
  deps: StageDeps,
  input: { product: Id; version: string; channel: Id; by: string },
): Promise<Result<ReleaseRecord>> => putInto(deps, { ...input, from: null });

/**
 * Takes a release from the channel before into this one: the same bytes, nothing is built or signed again by CI.
 * Refusals: as for staging, and `conflict` when it is not in the channel before.
 */
export const promoteRelease = async (
  deps: StageDeps,
  input: { product: Id; version: string; to: Id; by: string },
): Promise<Result<ReleaseRecord>> => {
  const found = findChannel(deps.channels, input.to);
  if (found === undefined) return noChannel(deps.channels, input.to);
  if (found.previous === null) {
    return refuse('invalid-request', `${input.to} is the first channel: a release is staged there, not promoted`);
  }
  const { product, version, to, by } = input;
  return putInto(deps, { product, version, channel: to, by, from: found.previous.name });
};

const putInto = async (
  deps: StageDeps,
  input: { product: Id; version: string; channel: Id; from: Id | null; by: string },
): Promise<Result<ReleaseRecord>> => {
  const { product, version, channel, from, by } = input;
  const name = releaseRef(product, version);
  if (findChannel(deps.channels, channel) === undefined) return noChannel(deps.channels, channel);
  const found = await findOpenRelease(deps.store, input);
  if (!found.ok) return found;
  const release = found.value;
  const { progress } = release;
  const channels = progress.state === 'staged' ? progress.channels : [];
  if (channels.includes(channel)) return accept(release);
  if (from !== null && !channels.includes(from)) {
    return refuse('conflict', `${name} is not in ${from}, the channel before ${channel}; stage it there first`);
  }
  const met = await checkRequirements(deps, release, { channel, by });
  if (!met.ok) return met;

  const metadataVersion = Math.max(...release.bundles.map((bundle) => bundle.metadataVersion));
  const metadata = await deps.store.getDelegationMetadata(product, metadataVersion);
  if (metadata === undefined) throw new Error(`the metadata version ${metadataVersion} of ${product} is not there`);
  await deps.repository.publishDelegation(product, metadata.version, metadata.document);

  const staged = { state: 'staged' as const, channels: [...channels, channel] };
  const at = deps.now();
  const line =
    from === null
      ? auditLine({ at, by, kind: 'release-staged', product, version, channel })
      : auditLine({ at, by, kind: 'release-promoted', product, version, from, to: channel, ...met.value });
  const saved = await deps.store.saveRelease(product, version, progress, staged, line);
  if (saved === 'conflict') return refuse('conflict', `${name} changed in between; look at it, then try again`);
  return accept({ ...release, progress: staged });
};
