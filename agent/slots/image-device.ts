/**
 * A slot that is a partition, a loop device, or a file of the slot's size: who else uses it, how large it is, writing
 * an image into it and reading it back.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, realpath, stat } from 'node:fs/promises';
import type { Artifact } from '#shared/manifest.ts';
import { readChunks, writeHashed } from '../disk/hashed-write.ts';
import { openStoredReader } from '../disk/read-back.ts';
import type { SlotResult } from '../domain/slots.ts';
import { errorCode, storageRefusal } from '../process/system-error.ts';
import { blockDeviceBytes, deviceNumber, loopsOf, mounts, userOfDevice } from './block-device.ts';

type Refused = Extract<SlotResult, { ok: false }>;
const refuse = (code: Refused['code'], message: string): Refused => ({ ok: false, code, message });

const PIECE_BYTES = 256 * 1024;
/** On a block device O_EXCL is the kernel's own answer to whether anyone has it mounted or claimed. */
const WRITE_ALONE = constants.O_RDWR | constants.O_EXCL;

export type SlotDevice = { file: string; bytes: number };

/** The device as it is now, whether or not it is in use. */
export const findDevice = async (path: string): Promise<{ ok: true; device: SlotDevice } | Refused> => {
  try {
    const file = await realpath(path);
    const there = await stat(file);
    if (there.isBlockDevice()) return { ok: true, device: { file, bytes: await blockDeviceBytes(there.rdev) } };
    if (there.isFile()) return { ok: true, device: { file, bytes: there.size } };
    return refuse('PRECONDITION', `${path} is neither a block device nor a file`);
  } catch (error) {
    return refuse('PRECONDITION', `${path} cannot be used as a slot: ${errorCode(error) || String(error)}`);
  }
};

/** Whether an image can be written there now: no one uses it, and it is large enough. Writes nothing (faults 19). */
export const checkDevice = async (
  path: string,
  artifact?: Artifact,
): Promise<{ ok: true; device: SlotDevice } | Refused> => {
  const found = await findDevice(path);
  if (!found.ok) return found;
  const { file, bytes } = found.device;
  if (artifact !== undefined && artifact.bytes > bytes)
    return refuse('NO_SPACE', `${artifact.name} has ${artifact.bytes} bytes, and the slot ${path} has ${bytes}`);
  const user = await userOf(file);
  if (user !== undefined) return refuse('PRECONDITION', `${path} cannot be written: ${user}`);
  try {
    await (await open(file, WRITE_ALONE)).close();
    return found;
  } catch (error) {
    const code = errorCode(error);
    return refuse('PRECONDITION', `${path} cannot be written: ${code === 'EBUSY' ? 'it is in use' : code}`);
  }
};

const userOf = async (file: string): Promise<string | undefined> => {
  const there = await stat(file);
  if (there.isBlockDevice()) return userOfDevice(there.rdev);
  const loops = await loopsOf(file);
  const mounted = (await mounts()).find(({ device }) => loops.includes(device));
  return mounted === undefined ? undefined : `it is mounted at ${mounted.point}`;
};

/** Whether this device, or a loop device on this file, is what is mounted at `point`. */
export const isMountedAt = async (path: string, point: string): Promise<boolean> => {
  const there = await stat(path).catch(() => undefined);
  if (there === undefined) return false;
  const numbers = there.isBlockDevice() ? [deviceNumber(there.rdev)] : await loopsOf(await realpath(path));
  // The last one mounted there hides the others.
  const shown = (await mounts()).findLast((mount) => mount.point === point);
  return shown !== undefined && numbers.includes(shown.device);
};

/**
 * Streams the file into the slot, from its first byte; flushed when this resolves. What is in the slot already is only
 * flushed.
 */
export const writeImage = async (
  { file }: SlotDevice,
  artifact: Artifact,
  source: string,
  signal?: AbortSignal,
): Promise<SlotResult> => {
  const doing = `${file} cannot be written`;
  let handle: FileHandle | undefined;
  try {
    handle = await open(file, WRITE_ALONE);
    if ((await realpath(source)) !== file) {
      const hash = createHash('sha256');
      await writeHashed(handle, readChunks(source, PIECE_BYTES, signal), hash);
      if (hash.digest('hex') !== artifact.sha256)
        return refuse('TARGET_HASH', `${artifact.name} has changed on the disk since it was fetched`);
    }
    await handle.sync();
    return { ok: true };
  } catch (error) {
    if (signal?.aborted === true) return refuse('WRITE_FAILED', 'stopped');
    return storageRefusal(error, doing);
  } finally {
    await handle?.close();
  }
};

/** Reads the image from the disk, past the page cache where that is possible (faults 15). */
export const verifyImage = async (
  { file }: SlotDevice,
  artifact: Artifact,
  signal?: AbortSignal,
): Promise<SlotResult> => {
  try {
    const stored = await openStoredReader().hash(file, artifact.bytes, signal);
    if (stored.bytes === artifact.bytes && stored.sha256 === artifact.sha256) return { ok: true };
    return refuse('WRITE_VERIFY', `${artifact.name} is not in ${file} as it was written`);
  } catch (error) {
    if (signal?.aborted === true) return refuse('WRITE_VERIFY', 'stopped');
    return { ...storageRefusal(error, `${file} cannot be read`), code: 'WRITE_VERIFY' };
  }
};
