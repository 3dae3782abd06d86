/**
 * Desired documents: recorded with the decision that asked for them, signed afterwards in batches, always available to
 * the device. Signing again (a crash, a nearing expiry) gives the same `seq` and the same instruction.
 */

import type { DesiredRecord } from '#server/store/desired.ts';
import type { Store } from '#server/store/store.ts';
import { signDesired } from '#server/trust/director.ts';
import type { Id } from '#shared/ids.ts';
import { type Desired, DesiredBatch, type DesiredLeaf } from '#shared/messages.ts';
import type { Signer } from '#shared/trust/signers.ts';
import type { DeviceLink } from './device-link.ts';

/** A device that was off for longer than this gets a freshly signed document when it asks. */
export const DESIRED_LIFE_MS = 7 * 86_400_000;
/** Signed again with less than this left, so that a device never meets one that expires on the way. */
const RENEW_MS = 2 * 86_400_000;
/** Leaves a signature: 2,000 take about 25 ms of hashing, during which nothing else runs. */
const BATCH_LEAVES_MAX = 2_000;

export type DesiredDeps = {
  store: Pick<Store, 'getDesiredMany' | 'saveDesiredDocuments'>;
  director: Signer;
  now: () => number;
};

/** The signed document of each device that has one; signs what is not signed yet or expires soon. */
const desiredDocuments = async (deps: DesiredDeps, devices: Id[]): Promise<Map<Id, Desired>> => {
  const documents = new Map<Id, Desired>();
  for (let start = 0; start < devices.length; start += BATCH_LEAVES_MAX) {
    const records = await deps.store.getDesiredMany(devices.slice(start, start + BATCH_LEAVES_MAX));
    const now = deps.now();
    const stale: DesiredRecord[] = [];
    for (const record of records) {
      if (record.document !== null && expiryOf(record.document) - now > RENEW_MS) {
        documents.set(record.device, record.document);
      } else stale.push(record);
    }
    if (stale.length === 0) continue;
    const times = { issuedAt: now, expires: now + DESIRED_LIFE_MS };
    const signed = signDesired(
      deps.director,
      stale.map((record) => leafOf(record, times)),
      times,
    );
    const saves = stale.map((record, index) => ({ device: record.device, seq: record.seq, document: signed[index]! }));
    await deps.store.saveDesiredDocuments(saves);
    for (const { device, document } of saves) documents.set(device, document);
  }
  return documents;
};

/**
 * What one device should run, or null when no one ever asked anything of it. For a device that connects or asks over
 * HTTP.
 */
export const desiredOf = async (deps: DesiredDeps, device: Id): Promise<Desired | null> =>
  (await desiredDocuments(deps, [device])).get(device) ?? null;

/**
 * Signs what is unsigned and pushes all of it to the devices that are connected; the others fetch it when they come.
 */
export const publishDesired = async (
  deps: DesiredDeps & { link: Pick<DeviceLink, 'pushDesired'> },
  devices: Id[],
): Promise<void> => {
  for (const [device, document] of await desiredDocuments(deps, devices)) deps.link.pushDesired(device, document);
};

const leafOf = (record: DesiredRecord, times: { issuedAt: number; expires: number }): DesiredLeaf => ({
  type: 'sluice/desired/1',
  device: record.device,
  seq: record.seq,
  ...times,
  instruction: record.instruction,
});

/** Ours, so it parses; a document that does not is signed again. */
const expiryOf = (document: Desired): number => {
  const batch = DesiredBatch.safeParse(JSON.parse(document.batch.payload));
  return batch.success ? batch.data.expires : 0;
};
