/** The data folder, its room, and the device's key in it. */
import { randomBytes } from 'node:crypto';
import { lstat, readdir, rm, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { ed25519SignerFromPem } from '#shared/trust/ed25519-signer.ts';
import type { AgentConfig } from '../config/config.ts';
import { errorCode } from '../process/system-error.ts';
import { doubtful, type Finding, good, sizeOf, unfit } from './finding.ts';

/** The journal, metadata and a small application need this much. */
const ROOM_MIN = 64 * 1024 ** 2;
const ROOM_COMFORTABLE = 512 * 1024 ** 2;
const GROUP_AND_OTHERS = 0o077;
/** An application of another user goes through it to its slot. */
const BUT_PASSING = 0o066;

export const examineFolder = async ({ dataDir, application }: AgentConfig): Promise<Finding[]> => {
  const there = await lstat(dataDir).catch((error: unknown) => errorCode(error) || 'unknown error');
  if (there === 'ENOENT') return examineParent(dataDir);
  if (typeof there === 'string' || !there.isDirectory()) {
    const why = typeof there === 'string' ? `cannot be looked at (${there})` : 'is no folder';
    return [
      unfit('data folder', `${dataDir} ${why}`, 'choose another dataDir, or make it a folder of the agent’s user'),
    ];
  }
  const forbidden = application.user === undefined ? GROUP_AND_OTHERS : BUT_PASSING;
  return [await examineWriting(dataDir, there, forbidden), await examineRoom(dataDir), await examineKey(dataDir)];
};

const examineParent = async (dataDir: string): Promise<Finding[]> => {
  const parent = dirname(dataDir);
  const there = await lstat(parent).catch(() => undefined);
  if (there === undefined) return [good('data folder', `${dataDir} will be made, with what is above it`)];
  const written = await tryWriting(parent);
  if (written !== undefined)
    return [
      unfit(
        'data folder',
        `${dataDir} cannot be made: ${parent} cannot be written (${written})`,
        `make ${dataDir} for the agent's user`,
      ),
    ];
  return [good('data folder', `${dataDir} will be made`), await examineRoom(parent)];
};

const tryWriting = async (dir: string): Promise<string | undefined> => {
  const probe = join(dir, `.sluice-check-${randomBytes(4).toString('hex')}`);
  try {
    await writeFileDurably(probe, 'written and flushed', 0o600);
    return undefined;
  } catch (error) {
    return errorCode(error) || String(error);
  } finally {
    await rm(probe, { force: true }).catch(() => undefined);
  }
};

const examineWriting = async (
  dir: string,
  there: { mode: number; uid: number },
  forbidden: number,
): Promise<Finding> => {
  const written = await tryWriting(dir);
  if (written !== undefined)
    return unfit(
      'data folder',
      `${dir} cannot be written (${written})`,
      `give ${dir} to the agent's user, on a disk that can be written`,
    );
  const user = process.getuid?.();
  if (user !== undefined && user !== 0 && there.uid !== user)
    return doubtful(
      'data folder',
      `${dir} belongs to user ${there.uid}, not to the agent's (${user})`,
      `chown -R ${user} ${dir}`,
    );
  if ((there.mode & forbidden) !== 0)
    return doubtful(
      'data folder',
      `${dir} is open to others (mode ${(there.mode & 0o777).toString(8)})`,
      `chmod ${forbidden === BUT_PASSING ? '711' : '700'} ${dir}`,
    );
  return good('data folder', `${dir} can be written, by no one else`);
};

const examineRoom = async (dir: string): Promise<Finding> => {
  const { bavail, bsize, ffree, files } = await statfs(dir);
  const bytes = bavail * bsize;
  if (bytes < ROOM_MIN || (files > 0 && ffree < 1_000)) {
    const found = bytes < ROOM_MIN ? `only ${sizeOf(bytes)} are free` : `only ${ffree} files can still be made`;
    return unfit('space', `${found} in ${dir}`, 'make room, or put dataDir on a larger file system');
  }
  if (bytes < ROOM_COMFORTABLE)
    return doubtful(
      'space',
      `${sizeOf(bytes)} are free in ${dir}`,
      'a release needs its download and its slot at the same time: compare with your largest',
    );
  return good('space', `${sizeOf(bytes)} are free in ${dir}`);
};

const examineKey = async (dir: string): Promise<Finding> => {
  const file = join(dir, 'device.key');
  const read = await readFileIfThere(file).catch((error: unknown) => errorCode(error) || 'unknown error');
  if (read === undefined) {
    const enrolled = (await readdir(dir)).includes('enrolment.json');
    return enrolled
      ? unfit(
          'key',
          `${file} is gone, though this device is enrolled`,
          'restore it, or remove enrolment.json and enrol the device again',
        )
      : good('key', 'will be made at the first start');
  }
  if (typeof read === 'string')
    return unfit('key', `${file} cannot be read (${read})`, "give it to the agent's user, mode 600");
  if (!ed25519SignerFromPem(read.toString('utf8')).ok)
    return unfit('key', `${file} is not an Ed25519 private key`, 'restore it, or remove it and enrol the device again');
  const { mode } = await lstat(file);
  return (mode & GROUP_AND_OTHERS) === 0
    ? good('key', 'is there, and no one else may read it')
    : doubtful('key', `others may read ${file} (mode ${(mode & 0o777).toString(8)})`, `chmod 600 ${file}`);
};
