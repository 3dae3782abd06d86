/**
 * Takes from the disk what no published bundle and no pack needs: uploads that were never published, packs that were
 * replaced.
 */
import type { Objects } from '#server/store/objects.ts';
import type { Store } from '#server/store/store.ts';

/** A publication that is just being recorded, and a device in the middle of fetching, take far less. */
export const GRACE_MS = 86_400_000;

/**
 * Marks, then sweeps. What is published in between is safe: its objects are younger than the grace period, or were kept
 * again since the marking, which `Objects.sweep` sees.
 */
export const collectGarbage = async (deps: {
  store: Pick<Store, 'listReferencedObjects' | 'sweepChunks'>;
  objects: Pick<Objects, 'sweep'>;
  now: () => number;
}): Promise<number> => {
  await deps.store.sweepChunks(deps.now() - GRACE_MS);
  return deps.objects.sweep(new Set(await deps.store.listReferencedObjects()), GRACE_MS);
};
