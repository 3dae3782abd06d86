/**
 * A device that was changed by hand is found to drift, and stays so until someone decides: it is adopted, or offered
 * something.
 */
import type { Id, Sha256 } from '#shared/ids.ts';
import type { Rows } from './rows.ts';
import type { Event } from './rules-rows.ts';
import type { World } from './world.ts';

type Changed = { manifest: Sha256; at: number; logged: number };

export const openDrift = (world: World, rows: Rows, log: readonly Event[]) => {
  const changed = new Map<Id, Changed>();
  const touched = new Set<Id>();
  return {
    changedByHand: (device: Id, manifest: Sha256): void => {
      const record = rows.device(device);
      // What the server expects is known for certain only of the first change, and where nothing was under way.
      const isFirst = !touched.has(device);
      touched.add(device);
      const isKnown = record?.deployment === null && !rows.drifts(device) && record.running !== null;
      if (isFirst && isKnown && record.running?.manifest !== manifest)
        changed.set(device, { manifest, at: world.time.now(), logged: log.length });
    },
    /** Anything that moves for the device ends what is known of it. */
    moved: (device: Id): void => {
      touched.add(device);
      changed.delete(device);
    },
    recount: (): void => {
      for (const [device, { manifest, logged }] of changed) {
        const record = rows.device(device);
        if (record?.running?.manifest !== manifest || record.deployment !== null) continue;
        const isAdopted = log.slice(logged).some((event) => event.kind === 'drift-adopted' && event.device === device);
        if (record.state === 'accepted' && !isAdopted && !rows.drifts(device))
          world.violate(`${device} runs what no one told it to run, which the server knows and says to no one`);
      }
    },
  };
};
