/**
 * Answers what a device that cannot reach HTTP asks for over MQTT, block by block. What it may read and what that says
 * decides the HTTP application itself: each request is passed on to it, as that device's. Bounded per device and in
 * all; what is too much is dropped, and asked for again by a device that still wants it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { BLOCK_WINDOW_MAX, BlockRequest, encodeBlock } from '#shared/blocks.ts';
import type { Id } from '#shared/ids.ts';
import { parseMessage } from '#shared/messages.ts';
import { fullBucket, type Rate, type TokenBucket, take, waitMs } from '#shared/token-bucket.ts';

/** Of the object: at most as many bytes as were asked for. Nothing but `status` counts when that is not 200. */
type BlockAnswer = { status: number; bytes: Uint8Array; total: number; etag?: string | undefined };

export type BlocksOptions = {
  read(device: Id, request: Pick<BlockRequest, 'path' | 'offset' | 'bytes'>): Promise<BlockAnswer>;
  /** `full`: the device does not read as fast as it asks. */
  send(device: Id, message: Buffer): 'sent' | 'full' | 'gone';
  /** Bytes of each device. */
  rate: Rate;
  onDropped(why: 'block-malformed' | 'block-window' | 'block-queue'): void;
  onError(error: unknown): void;
};

export type BlockServer = {
  receive(device: Id, payload: Uint8Array): void;
  /** The device is not connected any more. */
  forget(device: Id): void;
};

/** Blocks read at once, and requests that wait for that, of all devices. */
const READING_MAX = 32;
const WAITING_MAX = 4_096;
/** A device that does not read is looked at this often, and given up on in the end. */
const FULL_MS = 50;
const FULL_LOOKS_MAX = 400;

export const serveBlocks = (options: BlocksOptions): BlockServer => {
  const { rate } = options;
  const devices = new Map<Id, { open: number; bucket: TokenBucket }>();
  const waiting: (() => void)[] = [];
  let reading = 0;

  const turn = async (): Promise<void> => {
    if (reading < READING_MAX) {
      reading += 1;
      return;
    }
    // A device whose turn is over passes it on.
    await new Promise<void>((resolve) => void waiting.push(resolve));
  };
  const done = (): void => {
    const next = waiting.shift();
    if (next === undefined) reading -= 1;
    else next();
  };
  const read = async (device: Id, request: BlockRequest): Promise<BlockAnswer> => {
    await turn();
    try {
      return await options.read(device, request);
    } finally {
      done();
    }
  };
  const answer = async (device: Id, request: BlockRequest, debtMs: number): Promise<void> => {
    if (debtMs > 0) await sleep(debtMs, undefined, { ref: false });
    if (!devices.has(device)) return;
    const { status, bytes, total, etag } = await read(device, request);
    const header = { id: request.id, status, offset: request.offset, bytes: bytes.length, total };
    const message = encodeBlock(etag === undefined ? header : { ...header, etag }, bytes);
    for (let looks = 0; looks < FULL_LOOKS_MAX && options.send(device, message) === 'full'; looks += 1)
      await sleep(FULL_MS, undefined, { ref: false });
  };

  return {
    receive: (device, payload) => {
      const request = parseMessage(BlockRequest, payload);
      if (request === undefined) return options.onDropped('block-malformed');
      const known = devices.get(device) ?? { open: 0, bucket: fullBucket(rate, performance.now()) };
      devices.set(device, known);
      if (known.open >= BLOCK_WINDOW_MAX) return options.onDropped('block-window');
      if (waiting.length >= WAITING_MAX) return options.onDropped('block-queue');
      known.open += 1;
      const debtMs = waitMs(take(known.bucket, rate, performance.now(), request.bytes), rate);
      return void answer(device, request, debtMs)
        .catch((error: unknown) => options.onError(error))
        .finally(() => {
          known.open -= 1;
        });
    },
    forget: (device) => void devices.delete(device),
  };
};
