/** Where is my change? By the releases whose manifests name it, and by what devices say that they run. */

import { addedChanges, type ChangeDifference, type Contents } from '#server/domain/release/changes.ts';
import type { BundleWithChange, ReleaseRecord, ReleaseState } from '#server/store/catalogue.ts';
import type { Store } from '#server/store/store.ts';
import { type Id, releaseRef } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';

export type ChangeReport = {
  change: string;
  /** Newest first. */
  releases: {
    product: Id;
    version: string;
    progress: ReleaseState;
    bundles: { compatible: Id; devices: number }[];
  }[];
  /** Accepted devices that run one of them. */
  running: number;
  /** All accepted devices. */
  fleet: number;
};

/** Refusal: `not-found` when no release contains it. */
export const findChange = async (
  store: Pick<Store, 'findChange' | 'countDevices'>,
  change: string,
): Promise<Result<ChangeReport>> => {
  const bundles = await store.findChange(change);
  if (bundles.length === 0) return refuse('not-found', `no release contains ${change}`);
  const fleet = (await store.countDevices()).filter(({ state }) => state === 'accepted');
  return accept({
    change,
    releases: [...byRelease(bundles).values()],
    running: bundles.reduce((sum, { devices }) => sum + devices, 0),
    fleet: fleet.reduce((sum, { devices }) => sum + devices, 0),
  });
};

const byRelease = (bundles: BundleWithChange[]): Map<string, ChangeReport['releases'][number]> => {
  const releases = new Map<string, ChangeReport['releases'][number]>();
  for (const { product, version, progress, compatible, devices } of bundles) {
    const ref = releaseRef(product, version);
    const known = releases.get(ref) ?? { product, version, progress, bundles: [] };
    known.bundles.push({ compatible, devices });
    releases.set(ref, known);
  }
  return releases;
};

type Named = { product: Id; version: string };

/** Refusals: `not-found`, `invalid-request` for two products. */
export const diffReleases = async (
  store: Pick<Store, 'getRelease'>,
  from: Named,
  to: Named,
): Promise<Result<{ added: ChangeDifference[]; removed: ChangeDifference[] }>> => {
  if (from.product !== to.product) {
    return refuse('invalid-request', `${from.product} and ${to.product} are two products: there is nothing to compare`);
  }
  const found: Contents[][] = [];
  for (const { product, version } of [from, to]) {
    const release = await store.getRelease(product, version);
    if (release === undefined) return refuse('not-found', `there is no release ${releaseRef(product, version)}`);
    found.push(contentsOf(release));
  }
  const [before = [], after = []] = found;
  return accept({ added: addedChanges(before, after), removed: addedChanges(after, before) });
};

const contentsOf = (release: ReleaseRecord): Contents[] =>
  release.bundles.map(({ compatible, manifest }) => ({ compatible, changes: manifest.changes }));
