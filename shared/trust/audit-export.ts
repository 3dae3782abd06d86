/**
 * The audit log as a file that proves itself: newline-delimited JSON, made by `auditExportLines`, verified offline by
 * `verifyAuditExport`. Line 1, the header, carries all root metadata from version 1 and the targets metadata that
 * delegates the log's key; then one line an entry, `{"index":0,"payload":"..."}`; the last line is the checkpoint,
 * signed by the log's key.
 *
 * What a good export proves: these entries, in this order, are what the log key signed; and each receipt in it was
 * signed by the device that it names, with the key that the device had enrolled with by then: a later enrolment counts
 * from its place on. Expiry is not judged: an export stays good.
 */
import { z } from 'zod';
import { Receipt } from '../deployment.ts';
import { Id, Millis, type Sha256 } from '../ids.ts';
import { Signed } from '../messages.ts';
import { canonicalJson, sha256Hex } from './canonical.ts';
import { parseCheckpoint, signCheckpoint } from './checkpoint.ts';
import { ed25519PublicKey, type PublicKey } from './keys.ts';
import { appendLeaf, EMPTY_HEAD, leafHash, type MerkleHead, rootOfHead } from './merkle.ts';
import { verifySigned } from './signed.ts';
import type { Signer } from './signers.ts';
import { delegationOf, isSignedByRole, parseTuf, type TufDocument } from './tuf.ts';

/** The role in targets metadata whose key signs checkpoints. */
export const LOG_ROLE = 'log';
/** Longer than the longest possible line: the header has up to a hundred roots. */
export const EXPORT_LINE_CHARS_MAX = 16_000_000;

const Header = z.strictObject({
  type: z.literal('sluice/audit-export/1'),
  at: Millis,
  roots: z.array(z.string()).min(1).max(100),
  targets: z.string(),
});
const Entry = z.strictObject({ index: z.number().int().min(0), payload: z.string() });
const End = z.strictObject({ checkpoint: Signed });

/**
 * The lines of an export, without their newlines. `head` says which part of the log to export: `entries` are read up to
 * its size. Throws when they are fewer, or their root is not the head's: the log must not be vouched for if it is
 * damaged.
 */
export async function* auditExportLines(input: {
  roots: string[];
  targets: string;
  head: MerkleHead;
  entries: AsyncIterable<{ index: number; payload: string }>;
  log: Signer;
  at: number;
}): AsyncGenerator<string> {
  const { head, roots, targets, at } = input;
  yield canonicalJson({ type: 'sluice/audit-export/1', at, roots, targets });
  let read: MerkleHead = EMPTY_HEAD;
  if (head.size > 0) {
    for await (const { index, payload } of input.entries) {
      if (index !== read.size) throw new Error(`the audit log has entry ${index} where ${read.size} should be`);
      read = appendLeaf(read, leafHash(payload));
      yield canonicalJson({ index, payload });
      if (read.size === head.size) break;
    }
  }
  if (read.size !== head.size || rootOfHead(read) !== rootOfHead(head)) {
    throw new Error('the entries of the audit log do not give the root that was recorded with them: it is damaged');
  }
  yield canonicalJson({ checkpoint: signCheckpoint(input.log, head, at) });
}

export type AuditVerification =
  | { ok: true; entries: number; receipts: number; root: string }
  /** `line` is the first one that is wrong, from 1. */
  | { ok: false; why: string; line: number };

/**
 * Verifies an export, line by line (shared/lines.ts splits a file into them), in memory that does not grow with the
 * entries. With `rootSha256` (the digest of the first root metadata, from an enrolment token or the server's first
 * start) the whole chain of keys is proven; without, only that the export agrees with itself.
 */
export const verifyAuditExport = async (
  lines: AsyncIterable<string>,
  options: { rootSha256?: string },
): Promise<AuditVerification> => {
  let line = 0;
  let log: LogKeys | undefined;
  let ended: Ended | undefined;
  const state: Reading = { head: EMPTY_HEAD, devices: new Map(), receipts: 0 };
  for await (const text of lines) {
    line += 1;
    if (ended !== undefined) return { ok: false, why: 'something follows the checkpoint', line };
    if (text.length > EXPORT_LINE_CHARS_MAX) return { ok: false, why: 'the line is too long', line };
    if (text.endsWith('\r'))
      return { ok: false, why: 'the line ends with CR LF: the file was converted on its way', line };
    const json = parseJson(text);
    if (!isCanonical(json, text)) return { ok: false, why: 'the line is not as it was written', line };
    if (log === undefined) {
      const header = readHeader(json, options.rootSha256);
      if (!header.ok) return { ...header, line };
      log = header;
      continue;
    }
    const end = End.safeParse(json);
    if (end.success) {
      const checked = readEnd(end.data.checkpoint, log, state);
      if (!checked.ok) return { ...checked, line };
      ended = checked;
    } else {
      const why = readEntry(json, state);
      if (why !== undefined) return { ok: false, why, line };
    }
  }
  if (ended === undefined)
    return { ok: false, why: 'it is cut off: there is no checkpoint at its end', line: line + 1 };
  return { ok: true, entries: state.head.size, receipts: state.receipts, root: ended.root };
};

type Reading = { head: MerkleHead; devices: Map<string, PublicKey>; receipts: number };
type LogKeys = { ok: true; at: number; keys: { keyId: string; key: PublicKey }[] };
type Ended = { ok: true; root: Sha256 };
type Wrong = { ok: false; why: string };
const wrong = (why: string): Wrong => ({ ok: false, why });

/** Lines are canonical JSON to the byte, so that nothing in a line escapes notice. */
const isCanonical = (json: unknown, text: string): boolean => {
  try {
    return canonicalJson(json) === text;
  } catch {
    return false;
  }
};

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

/** From the pinned first root, through every rotation (TUF 5.3), to targets, to the key that `log` is delegated to. */
const readHeader = (json: unknown, rootSha256: string | undefined): LogKeys | Wrong => {
  const header = Header.safeParse(json);
  if (!header.success) return wrong('the first line is not the header of an audit export');
  const { at, roots, targets } = header.data;
  if (rootSha256 !== undefined && sha256Hex(roots[0]!) !== rootSha256) {
    return wrong(`the first root has the digest ${sha256Hex(roots[0]!)}, not ${rootSha256}`);
  }
  let root: TufDocument<'root'> | undefined;
  for (const [index, text] of roots.entries()) {
    const parsed = parseTuf('root', Buffer.from(text));
    if (!parsed.ok) return wrong(`root ${index + 1} is malformed: ${parsed.why}`);
    const next = parsed.document;
    const signed =
      isSignedByRole(next, next.signed, 'root') && (root === undefined || isSignedByRole(next, root.signed, 'root'));
    if (!signed || next.signed.version !== index + 1)
      return wrong(`root ${index + 1} is not signed as the root before it wants`);
    root = next;
  }
  const parsed = parseTuf('targets', Buffer.from(targets));
  if (!parsed.ok) return wrong(`the targets metadata is malformed: ${parsed.why}`);
  if (root === undefined || !isSignedByRole(parsed.document, root.signed, 'targets')) {
    return wrong('the targets metadata is not signed as the root wants');
  }
  const delegation = delegationOf(parsed.document.signed, LOG_ROLE);
  return delegation === undefined
    ? wrong('the targets metadata names no key for the log')
    : { ok: true, at, keys: delegation.keys };
};

const EnrolledEvent = z.object({
  kind: z.literal('device-enrolled'),
  device: Id,
  publicKey: z.string().regex(/^[0-9a-f]{64}$/),
});
const ReceiptEvent = z.object({ kind: z.literal('receipt'), device: Id, deployment: Id, receipt: Signed });

/** Takes one entry in; undefined, or what is wrong with it. */
const readEntry = (json: unknown, state: Reading): string | undefined => {
  const entry = Entry.safeParse(json);
  if (!entry.success) return 'the line is neither an entry nor a checkpoint';
  const { index, payload } = entry.data;
  if (index !== state.head.size) return `entry ${state.head.size} is missing: there is entry ${index} in its place`;
  state.head = appendLeaf(state.head, leafHash(payload));
  const event = parseJson(payload);
  const enrolled = EnrolledEvent.safeParse(event);
  if (enrolled.success) {
    state.devices.set(enrolled.data.device, ed25519PublicKey(enrolled.data.publicKey));
    return undefined;
  }
  if (!isReceiptEvent(event)) return undefined;
  state.receipts += 1;
  return judgeReceipt(event, state.devices);
};

const isReceiptEvent = (event: unknown): boolean =>
  typeof event === 'object' && event !== null && 'kind' in event && event.kind === 'receipt';

const judgeReceipt = (event: unknown, devices: Map<string, PublicKey>): string | undefined => {
  const parsed = ReceiptEvent.safeParse(event);
  if (!parsed.success) return 'the entry says that it is a receipt, but is not of that form';
  const { device, deployment, receipt } = parsed.data;
  const key = devices.get(device);
  if (key === undefined) return `there is a receipt of device ${device}, which never enrolled`;
  if (!verifySigned(receipt, key)) return `the receipt of device ${device} is not signed by its key`;
  const said = Receipt.safeParse(parseJson(receipt.payload));
  if (!said.success || said.data.device !== device || said.data.deployment !== deployment) {
    return `the receipt that device ${device} signed is not about deployment ${deployment}`;
  }
  return undefined;
};

const readEnd = (signed: Signed, log: LogKeys, state: Reading): Ended | Wrong => {
  if (!log.keys.some(({ key }) => verifySigned(signed, key)))
    return wrong('the checkpoint is not signed by the log key');
  const checkpoint = parseCheckpoint(signed.payload);
  if (checkpoint === undefined) return wrong('the checkpoint is malformed');
  if (checkpoint.at !== log.at) return wrong('the header and the checkpoint are not of the same time');
  if (checkpoint.size !== state.head.size) {
    return wrong(`the checkpoint is of ${checkpoint.size} entries, but there are ${state.head.size}`);
  }
  const root = rootOfHead(state.head);
  if (checkpoint.root !== root)
    return wrong('an entry was changed: the entries do not give the root that the log key signed');
  return { ok: true, root };
};
