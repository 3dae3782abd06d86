/**
 * MQTT payloads: JSON, parsed here and nowhere else, each with a limit. Correlation lives in the payload, so MQTT 3.1.1
 * is enough.
 */
import { z } from 'zod';
import { AGENT_STATES, DeviceError, Running } from './deployment.ts';
import { Id, Millis, Sha256, text, Version } from './ids.ts';
import { OpenSpan, SPANS_TOLD_MAX } from './windows.ts';

export const MESSAGE_BYTES_MAX = 64 * 1024;
const LOG_BYTES_MAX = 16 * 1024;
export const LOG_PARTS_MAX = 8;

/** A signature over exactly the bytes of `payload` (UTF-8). `keyId` is the TUF key id; `sig` is hexadecimal. */
export const Signed = z.object({
  payload: z.string().min(2).max(16_384),
  keyId: Sha256,
  sig: z.string().regex(/^[0-9a-f]{2,1024}$/),
});
export type Signed = z.infer<typeof Signed>;

/**
 * What a device should do. `none` means: stay as you are; it supersedes, and so withdraws, whatever was offered before.
 */
export const Instruction = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('install'),
    deployment: Id,
    rollout: Id,
    product: Id,
    version: Version,
    compatible: Id,
    securityCounter: z.number().int().min(0),
    /** The manifest: its TUF path, digest and length, which must agree with what CI signed. */
    path: z.string().max(256),
    sha256: Sha256,
    length: z.number().int().min(1),
    /** From the second time that this deployment is offered on. */
    attempt: z.number().int().min(2).optional(),
    /**
     * Install and activate only within these; absent: at any time. All past: not until told more. Reckoned by the
     * server, so that a device needs no calendar.
     */
    windows: z.array(OpenSpan).max(SPANS_TOLD_MAX).optional(),
    /** For which time zone the windows were reckoned: what the device reported last. Absent: it reported none. */
    zone: text(256).optional(),
    /** Not to be activated before; null: not until told; absent: as soon as it is installed. */
    activateAt: Millis.nullable().optional(),
    /** A device that finds its server unreachable may activate without asking it. Absent: it must not. */
    confirm: z.literal('when-reachable').optional(),
  }),
  z.object({ kind: z.literal('none'), reason: text(256) }),
]);
export type Instruction = z.infer<typeof Instruction>;

/**
 * The leaf of the director's Merkle batch: one whole desired state of one device. Canonical JSON of this is
 * `Desired.leaf`.
 */
export const DesiredLeaf = z.object({
  type: z.literal('sluice/desired/1'),
  device: Id,
  /** Strictly growing per device; a device ignores what is not greater than what it has seen. */
  seq: z.number().int().min(1),
  issuedAt: Millis,
  expires: Millis,
  instruction: Instruction,
});
export type DesiredLeaf = z.infer<typeof DesiredLeaf>;

/** What the director signs once for a whole wave: canonical JSON of this is `Desired.batch.payload`. */
export const DesiredBatch = z.object({
  type: z.literal('sluice/batch/1'),
  root: Sha256,
  size: z.number().int().min(1).max(1_000_000),
  issuedAt: Millis,
  expires: Millis,
});
export type DesiredBatch = z.infer<typeof DesiredBatch>;

/** `down/desired` and `GET /device/v1/desired`: the leaf, its RFC 6962 inclusion proof, and the signed batch. */
export const Desired = z.object({
  leaf: z.string().min(2).max(4096),
  index: z.number().int().min(0),
  proof: z.array(Sha256).max(32),
  batch: Signed,
});
export type Desired = z.infer<typeof Desired>;

/**
 * `up/state`, QoS 1, repeated until `down/ack` echoes its `seq`: a snapshot, so only the newest matters, and receipts,
 * of which every one does.
 */
export const StateReport = z.object({
  v: z.literal(1),
  boot: Id,
  seq: z.number().int().min(1),
  at: Millis,
  agent: text(64),
  running: Running.nullable(),
  /** The security counter below which this device refuses to go. */
  floor: z.number().int().min(0),
  desiredSeq: z.number().int().min(0),
  deployment: z
    .object({
      id: Id,
      state: z.enum(AGENT_STATES),
      since: Millis,
      bytesDone: z.number().int().min(0).optional(),
      bytesTotal: z.number().int().min(0).optional(),
      /** Over the network so far, since the agent started: the rest was on the device, or compressed. */
      bytesFetched: z.number().int().min(0).optional(),
      /** As in its instruction. */
      attempt: z.number().int().min(2).optional(),
      error: DeviceError.optional(),
    })
    .nullable(),
  receipts: z.array(Signed).max(8),
  attributes: z
    .record(z.string().regex(/^[a-z][a-z0-9_.-]{0,63}$/), text(256))
    .refine((all) => Object.keys(all).length <= 64, 'at most 64'),
});
export type StateReport = z.infer<typeof StateReport>;

/** Not signed: a device believes ten minutes at most. */
export const SpreadMs = z.number().int().min(0);

/** No one signs what numbers were used: a server that makes it up must leave a device enough of them. */
const SEQ_TOLD_MAX = Math.floor(Number.MAX_SAFE_INTEGER / 2);

/**
 * `down/ack`: everything in the state report with this `seq` is committed on the server. `highest`: nothing was done
 * about it now, since a report with this number is; a device that never sent that one was not heard, and must go on
 * above it.
 */
export const Ack = z.object({
  boot: Id,
  seq: z.number().int().min(1),
  highest: z.number().int().min(1).max(SEQ_TOLD_MAX).optional(),
  /**
   * How long this device may wait before it connects again after a loss, so that a large fleet does not come back at
   * once. Absent: about a second.
   */
  spreadMs: SpreadMs.optional(),
});
export type Ack = z.infer<typeof Ack>;

/** `up/heartbeat`, QoS 0: may be lost. About 300 bytes. */
export const Heartbeat = z.object({
  v: z.literal(1),
  boot: Id,
  at: Millis,
  uptimeMs: z.number().int().min(0),
  running: Running.nullable(),
  desiredSeq: z.number().int().min(0),
  deployment: z.object({ id: Id, state: z.enum(AGENT_STATES) }).nullable(),
  healthy: z.boolean(),
});
export type Heartbeat = z.infer<typeof Heartbeat>;

/** `up/online`, and the will. */
export const Online = z.object({ boot: Id, online: z.boolean() });
export type Online = z.infer<typeof Online>;

/**
 * `up/log`, QoS 0, or `POST /device/v1/logs`: the last lines before a failure, repeated until it is acknowledged. A
 * piece whose `id` was seen changes nothing.
 */
export const LogPiece = z.object({
  /** Distinct among the pieces of this device. */
  id: Id,
  boot: Id,
  /** Null: none goes on, and the device has fallen ill by itself. */
  deployment: Id.nullable(),
  source: z.enum(['application', 'agent']),
  /** Which piece of how many the text was cut into. */
  part: z.number().int().min(1).max(LOG_PARTS_MAX),
  parts: z.number().int().min(1).max(LOG_PARTS_MAX),
  at: Millis,
  /** Anything at all: show it with care. */
  text: z.string().max(LOG_BYTES_MAX),
});
export type LogPiece = z.infer<typeof LogPiece>;

/** `down/ack`: this piece is kept on the server. */
export const LogAck = z.object({ boot: Id, log: Id });
export type LogAck = z.infer<typeof LogAck>;

/** Parse bytes from a socket; undefined when they are too long, not JSON, or not of the schema's form. */
export const parseMessage = <S extends z.ZodType>(schema: S, bytes: Uint8Array): z.infer<S> | undefined => {
  if (bytes.length > MESSAGE_BYTES_MAX) return undefined;
  try {
    const parsed = schema.safeParse(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined;
  }
};
