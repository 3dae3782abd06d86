/** What one release contains that another does not, by what their manifests say. */
import type { Id } from '#shared/ids.ts';

export type Contents = { compatible: Id; changes: readonly string[] };
/** A change, and the hardware for which it makes the difference. */
export type ChangeDifference = { change: string; compatibles: Id[] };

/**
 * Changes that `to` contains and `from` does not, in the order in which `to` names them. Hardware is compared with
 * itself; hardware for which `from` has no bundle, with all that `from` contains.
 */
export const addedChanges = (from: readonly Contents[], to: readonly Contents[]): ChangeDifference[] => {
  const everything = new Set(from.flatMap(({ changes }) => changes));
  const before = new Map(from.map(({ compatible, changes }) => [compatible, new Set(changes)]));
  const added = new Map<string, Id[]>();
  for (const { compatible, changes } of to) {
    const known = before.get(compatible) ?? everything;
    for (const change of new Set(changes)) {
      if (!known.has(change)) added.set(change, [...(added.get(change) ?? []), compatible]);
    }
  }
  return [...added].map(([change, compatibles]) => ({ change, compatibles }));
};
