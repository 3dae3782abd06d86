/** What packs could be made for: the artifacts of releases that devices are, or soon will be, offered. */

import { type Chunked, OLDS_MAX, type PackTarget } from '#server/domain/release/pack-plan.ts';
import type { BundleRecord, ReleaseRecord } from '#server/store/catalogue.ts';
import type { Objects } from '#server/store/objects.ts';
import type { Store } from '#server/store/store.ts';
import { releaseRef, type Sha256 } from '#shared/ids.ts';
import type { Artifact } from '#shared/manifest.ts';

export type TargetStore = Pick<
  Store,
  'listProducts' | 'listReleases' | 'getRelease' | 'listOpenRollouts' | 'listRunning' | 'findBundle'
>;

/** Of each product the newest staged releases; an open rollout of an older one counts too. */
const STAGED_MAX = 2;
const RELEASES_SEEN = 20;

const chunkedOf = ({ sha256, bytes, chunks }: Artifact): Chunked | undefined =>
  chunks === undefined ? undefined : { artifact: sha256, index: chunks.index, bytes };

/** In the order in which they are worth making: releases of open rollouts first. */
export const packTargets = async (store: TargetStore): Promise<PackTarget[]> => {
  const releases = new Map<string, ReleaseRecord>();
  const add = (release: ReleaseRecord | undefined): void => {
    if (release?.progress.state === 'staged') releases.set(releaseRef(release.product, release.version), release);
  };
  for (const { plan } of await store.listOpenRollouts()) {
    if (!releases.has(releaseRef(plan.product, plan.version))) add(await store.getRelease(plan.product, plan.version));
  }
  for (const { name } of await store.listProducts()) {
    const newest = await store.listReleases({ product: name }, { limit: RELEASES_SEEN });
    newest
      .filter(({ progress }) => progress.state === 'staged')
      .slice(0, STAGED_MAX)
      .forEach(add);
  }
  const targets: PackTarget[] = [];
  for (const { bundles } of releases.values()) {
    for (const bundle of bundles) targets.push(...(await targetsOf(store, bundle)));
  }
  return targets;
};

const targetsOf = async (store: TargetStore, bundle: BundleRecord): Promise<PackTarget[]> => {
  const olds: BundleRecord[] = [];
  for (const { manifest } of await store.listRunning(bundle.product, bundle.compatible, OLDS_MAX + 1)) {
    const found = manifest === bundle.manifestSha256 ? undefined : await store.findBundle(manifest);
    if (found !== undefined) olds.push(found);
  }
  return bundle.manifest.artifacts.flatMap((artifact) => {
    const to = chunkedOf(artifact);
    if (to === undefined) return [];
    return [{ ...to, olds: olds.flatMap((old) => formerOf(old, artifact)) }];
  });
};

/** What stood in its place: the artifact of the same name. */
const formerOf = (old: BundleRecord, artifact: Artifact): Chunked[] => {
  const same = old.manifest.artifacts.find(({ name }) => name === artifact.name);
  const chunked = same && chunkedOf(same);
  return chunked === undefined ? [] : [chunked];
};

/** The smallest pack that a device can use which has these. */
export const findPack = async (
  deps: { store: Pick<Store, 'listPacks' | 'notePackUsed'>; objects: Pick<Objects, 'size'>; now: () => number },
  input: { to: Sha256; from: Sha256[] },
): Promise<{ sha256: Sha256; bytes: number; from: Sha256 | null; level: number } | null> => {
  const fitting = (await deps.store.listPacks([input.to])).filter(
    ({ from }) => from === null || input.from.includes(from),
  );
  const [best] = fitting.sort((a, b) => a.bytes - b.bytes);
  if (best === undefined || (await deps.objects.size(best.sha256)) === undefined) return null;
  // For eviction an hour more or less makes no difference, for a disk ten thousand writes do.
  if (deps.now() - best.usedAt > 3_600_000) await deps.store.notePackUsed(best, deps.now());
  const { sha256, bytes, from, level } = best;
  return { sha256, bytes, from, level };
};
