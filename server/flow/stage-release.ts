/** Makes an accepted release offerable in a channel: from here on devices can verify it, and rollouts may offer it. */
import type { Id } from '#shared/ids.ts';
import { releaseRef } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { auditLine } from '../domain/audit.ts';
import type { ReleaseRecord, Store } from '../store/store.ts';
import type { Repository } from '../trust/repository.ts';

/**
 * The server's countersignature comes first (the CI metadata goes under snapshot and timestamp), the record second:
 * published but not recorded is harmless and mended by repeating, the other way round devices would be offered what
 * they can't verify. Staging twice in a channel is answered with what is there.
 * Refusals: `invalid-request` (no such channel), `not-found`, `conflict` (withdrawn).
 */
export const stageRelease = async (
  deps: {
    store: Pick<Store, 'getRelease' | 'saveRelease' | 'getDelegationMetadata'>;
    repository: Repository;
    channels: readonly string[];
    now: () => number;
  },
  input: { product: Id; version: string; channel: Id; by: string },
): Promise<Result<ReleaseRecord>> => {
  const name = releaseRef(input.product, input.version);
  if (!deps.channels.includes(input.channel)) {
    return refuse('invalid-request', `there is no channel ${input.channel}; there are: ${deps.channels.join(', ')}`);
  }
  const release = await deps.store.getRelease(input.product, input.version);
  if (release === undefined) return refuse('not-found', `there is no release ${name}`);
  const { progress } = release;
  if (progress.state === 'withdrawn') return refuse('conflict', `${name} was withdrawn: ${progress.reason}`);
  const channels = progress.state === 'staged' ? progress.channels : [];
  if (channels.includes(input.channel)) return accept(release);

  const metadataVersion = Math.max(...release.bundles.map((bundle) => bundle.metadataVersion));
  const metadata = await deps.store.getDelegationMetadata(input.product, metadataVersion);
  if (metadata === undefined)
    throw new Error(`the metadata version ${metadataVersion} of ${input.product} is not there`);
  await deps.repository.publishDelegation(input.product, metadata.version, metadata.document);

  const staged = { state: 'staged' as const, channels: [...channels, input.channel] };
  const saved = await deps.store.saveRelease(
    input.product,
    input.version,
    progress,
    staged,
    auditLine({ at: deps.now(), by: input.by, kind: 'release-staged', ...pick(input) }),
  );
  if (saved === 'conflict') return refuse('conflict', `${name} changed in between; look at it, then try again`);
  return accept({ ...release, progress: staged });
};

const pick = ({ product, version, channel }: { product: Id; version: string; channel: Id }) => ({
  product,
  version,
  channel,
});
