/**
 * A reader of our own for U-Boot's redundant environment: `fw_printenv` shows the newest copy that is whole, and does
 * not say what became of the other. A copy is a CRC-32, one byte that grows with every write, and `name=value` strings
 * that end with a zero byte each.
 */
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { errorCode } from '#agent/process/system-error.ts';
import { blockDeviceBytes } from '../block-device.ts';
import type { Variables } from './variables.ts';

const COPY_BYTES_MAX = 16 * 1024 * 1024;
const HEAD_BYTES = 5;

export type CopyPlace = { file: string; offset: number; bytes: number };
export type Environment = {
  /** In the order of the configuration; null for a copy that is torn or damaged. */
  copies: [Variables | null, Variables | null];
  /** Which of them U-Boot takes; null when there is none. */
  newest: 0 | 1 | null;
};

/** `fw_env.config`: one line a copy of device, offset and size. A sentence for anything but two lines. */
export const parseConfig = (text: string): [CopyPlace, CopyPlace] | string => {
  const places: CopyPlace[] = [];
  for (const line of text.split('\n')) {
    const content = line.replace(/#.*/, '').trim();
    if (content === '') continue;
    const [file, offset, bytes] = content.split(/\s+/);
    const place = { file: file!, offset: wholeOf(offset), bytes: wholeOf(bytes) };
    const fits = Number.isSafeInteger(place.offset) && place.bytes > HEAD_BYTES && place.bytes <= COPY_BYTES_MAX;
    if (!fits) return `'${content}' is not a device, an offset and a size`;
    places.push(place);
  }
  const [first, second, ...more] = places;
  if (first === undefined) return 'it names no environment';
  if (second === undefined)
    return 'it names one copy: a single environment does not survive a torn write. Build U-Boot with CONFIG_SYS_REDUNDAND_ENVIRONMENT, and give a second line';
  return more.length > 0 ? 'it names more than two copies' : [first, second];
};

/** `0x2000`, `8192`, `-0x4000`. */
const wholeOf = (word: string | undefined): number => {
  const [, sign, digits] = /^(-?)(0x[0-9a-f]+|\d+)$/i.exec(word ?? '') ?? [];
  return Number(digits) * (sign === '-' ? -1 : 1);
};

/** Null when the copy is not whole. */
export const parseCopy = (bytes: Buffer): { flag: number; variables: Variables } | null => {
  const data = bytes.subarray(HEAD_BYTES);
  if (bytes.length <= HEAD_BYTES || bytes.readUInt32LE(0) !== crc32(data)) return null;
  const text = data.toString('latin1');
  const end = text.indexOf('\0\0');
  const variables: Record<string, string> = {};
  for (const pair of text.slice(0, Math.max(0, end)).split('\0')) {
    const equals = pair.indexOf('=');
    if (equals > 0) variables[pair.slice(0, equals)] = pair.slice(equals + 1);
  }
  return { flag: bytes[4]!, variables };
};

/** As U-Boot does: the greater flag, but 0 comes after 255. */
export const newestOf = (first: { flag: number } | null, second: { flag: number } | null): 0 | 1 | null => {
  if (first === null) return second === null ? null : 1;
  if (second === null) return 0;
  if (first.flag === 255 && second.flag === 0) return 1;
  if (first.flag === 0 && second.flag === 255) return 0;
  return second.flag > first.flag ? 1 : 0;
};

/** A sentence when the configuration or a device cannot be read. */
export const readEnvironment = async (config: string): Promise<Environment | string> => {
  let place = config;
  try {
    const places = parseConfig(await readFile(config, 'utf8'));
    if (typeof places === 'string') return `${config}: ${places}`;
    const copies = [];
    for (const copy of places) {
      place = copy.file;
      copies.push(parseCopy(await readAt(copy)));
    }
    const [first, second] = [copies[0] ?? null, copies[1] ?? null];
    return { copies: [first?.variables ?? null, second?.variables ?? null], newest: newestOf(first, second) };
  } catch (error) {
    return `${place} cannot be read: ${errorCode(error) || String(error)}`;
  }
};

const readAt = async ({ file, offset, bytes }: CopyPlace): Promise<Buffer> => {
  const handle = await open(file, 'r');
  try {
    const buffer = Buffer.alloc(bytes);
    // A negative offset counts from the end, as on eMMC boot partitions.
    const start = offset < 0 ? (await endOf(handle)) + offset : offset;
    const { bytesRead } = await handle.read(buffer, 0, bytes, start);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
};

const endOf = async (handle: FileHandle): Promise<number> => {
  const there = await handle.stat();
  return there.isBlockDevice() ? blockDeviceBytes(there.rdev) : there.size;
};
