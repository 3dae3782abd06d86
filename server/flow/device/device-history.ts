/**
 * What the audit log says about one device, its receipts checked again with the key that it had enrolled with by then.
 */
import type { z } from 'zod';
import { parseAuditEvent, sentenceOf } from '#server/domain/audit.ts';
import type { AuditEntry } from '#server/store/audit.ts';
import type { Store } from '#server/store/store.ts';
import { Receipt } from '#shared/deployment.ts';
import { type Id, releaseRef } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { ed25519PublicKey, type PublicKey } from '#shared/trust/keys.ts';
import { verifySigned } from '#shared/trust/signed.ts';
import type { HistoryView } from '#shared/views.ts';

/** Enrolments of one device that are looked at; receipts from before these are not verified here. */
const KEYS_MAX = 1_000;

type History = z.infer<typeof HistoryView>;

/** Newest first. `after` is the index of the last entry seen. Refusals: `not-found`, `invalid-request`. */
export const deviceHistory = async (
  deps: { store: Pick<Store, 'getDevice' | 'listDeviceAudit'> },
  id: Id,
  page: { after?: string | undefined; limit: number },
): Promise<Result<History>> => {
  const before = readIndex(page.after);
  if (!before.ok) return before;
  const device = await deps.store.getDevice(id);
  if (device === undefined) return refuse('not-found', `there is no device ${id}`);
  const entries = await deps.store.listDeviceAudit(id, { before: before.value, limit: page.limit });
  const keys = await keysOf(deps, id);
  const last = entries.at(-1);
  return accept({
    device: id,
    entries: entries.map((entry) => historyEntry(entry, keys.find(({ since }) => since < entry.index)?.key)),
    next: last !== undefined && entries.length === page.limit ? String(last.index) : null,
  });
};

/** Every key that the device has had, newest first, with the index of the entry by which it came. */
const keysOf = async (
  deps: { store: Pick<Store, 'listDeviceAudit'> },
  id: Id,
): Promise<{ since: number; key: PublicKey }[]> => {
  const entries = await deps.store.listDeviceAudit(id, { kind: 'device-enrolled', limit: KEYS_MAX });
  return entries.flatMap(({ index, payload }) => {
    const event = parseAuditEvent(payload);
    return event?.kind === 'device-enrolled' ? [{ since: index, key: ed25519PublicKey(event.publicKey) }] : [];
  });
};

/** The cursor of lists over the audit log. */
export const readIndex = (after: string | undefined): Result<number | undefined> => {
  if (after === undefined) return accept(undefined);
  return /^\d{1,15}$/.test(after)
    ? accept(Number(after))
    : refuse('invalid-request', 'after must be the `next` of the page before');
};

const historyEntry = (entry: AuditEntry, key: PublicKey | undefined): History['entries'][number] => {
  const event = parseAuditEvent(entry.payload);
  const common = {
    index: entry.index,
    at: event?.at ?? 0,
    kind: event?.kind ?? 'unknown',
    sentence: event === undefined ? entry.payload : sentenceOf(event),
  };
  if (event?.kind !== 'receipt') return { ...common, release: null, outcome: null, verified: null };
  const receipt = parseReceipt(event.receipt.payload);
  if (receipt === undefined) return { ...common, release: null, outcome: null, verified: false };
  return {
    ...common,
    release: releaseRef(receipt.product, receipt.version),
    outcome: receipt.outcome,
    verified: key !== undefined && receipt.device === event.device && verifySigned(event.receipt, key),
  };
};

const parseReceipt = (payload: string): Receipt | undefined => {
  try {
    const parsed = Receipt.safeParse(JSON.parse(payload));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined; // not JSON
  }
};
