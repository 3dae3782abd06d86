/**
 * Blocks: what a device otherwise reads over HTTP, in pieces over its MQTT connection. A request is JSON; an answer is
 * the length of a JSON header (32 bits, big-endian), the header, and the bytes. Both are QoS 0: a device that misses an
 * answer asks again.
 */
import { z } from 'zod';
import { Id } from './ids.ts';

export const BLOCK_BYTES_MAX = 64 * 1024;
/** A path has at most half of it. */
export const BLOCK_REQUEST_BYTES_MAX = 4 * 1024;
/** So many requests of one device may be open; more are dropped. */
export const BLOCK_WINDOW_MAX = 8;
const HEADER_BYTES_MAX = 1024;
const PREFIX_BYTES = 4;
/** An answer, header and all. */
const BLOCK_ANSWER_BYTES_MAX = BLOCK_BYTES_MAX + HEADER_BYTES_MAX + PREFIX_BYTES;

/** What can be read this way: the GET paths that an update takes. No dot segments. */
const BlockPath = z
  .string()
  .max(2048)
  .regex(/^\/(o\/|tuf\/|device\/v1\/(desired|pack))[A-Za-z0-9_.~/?=&+-]*$/)
  .refine((path) => !path.includes('..') && !path.includes('//'));

/**
 * `up/block`: bytes `offset` to `offset + bytes` of what GET `path` would answer. `id` is the device's to choose, one
 * for each request.
 */
export const BlockRequest = z.object({
  v: z.literal(1),
  id: Id,
  path: BlockPath,
  offset: z.number().int().min(0),
  bytes: z.number().int().min(1).max(BLOCK_BYTES_MAX),
});
export type BlockRequest = z.infer<typeof BlockRequest>;

/**
 * `status`: what HTTP would answer; the bytes are the object's only where it is 200. `total`: of the whole. `etag`:
 * changes with the content.
 */
export const BlockHeader = z.object({
  id: Id,
  status: z.number().int().min(100).max(599),
  offset: z.number().int().min(0),
  bytes: z.number().int().min(0).max(BLOCK_BYTES_MAX),
  total: z.number().int().min(0),
  etag: z.string().max(256).optional(),
});
export type BlockHeader = z.infer<typeof BlockHeader>;

export const encodeBlock = (header: BlockHeader, bytes: Uint8Array): Buffer => {
  const json = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix.writeUInt32BE(json.length);
  return Buffer.concat([prefix, json, bytes]);
};

/** Undefined when it is too long, or not of this form, or has not the bytes that it says. */
export const parseBlock = (message: Buffer): { header: BlockHeader; bytes: Buffer } | undefined => {
  if (message.length < PREFIX_BYTES || message.length > BLOCK_ANSWER_BYTES_MAX) return undefined;
  const end = PREFIX_BYTES + message.readUInt32BE();
  if (end > PREFIX_BYTES + HEADER_BYTES_MAX || end > message.length) return undefined;
  try {
    const header = BlockHeader.safeParse(JSON.parse(message.toString('utf8', PREFIX_BYTES, end)));
    const bytes = message.subarray(end);
    return header.success && header.data.bytes === bytes.length ? { header: header.data, bytes } : undefined;
  } catch {
    return undefined;
  }
};
