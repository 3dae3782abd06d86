/** What the kernel says about a block device: its size, and who uses it. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** `8:1`, as the kernel names a device number (`st_dev`, `st_rdev`). */
export const deviceNumber = (dev: number): string => {
  const major = Math.floor(dev / 256) % 4096;
  const minor = (dev % 256) + Math.floor(dev / 0x10_0000) * 256;
  return `${major}:${minor}`;
};

const folderOf = (rdev: number): string => `/sys/dev/block/${deviceNumber(rdev)}`;
const SECTOR_BYTES = 512;

/** Throws the system's error for a device that the kernel does not know. */
export const blockDeviceBytes = async (rdev: number): Promise<number> =>
  Number((await readFile(join(folderOf(rdev), 'size'), 'utf8')).trim()) * SECTOR_BYTES;

export type Mount = { device: string; point: string; type: string };

/** What is mounted, as this process sees it. */
export const mounts = async (): Promise<Mount[]> => {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n');
  return lines.flatMap((line) => {
    const words = line.split(' ');
    const dash = words.indexOf('-');
    if (dash === -1) return [];
    return [{ device: words[2]!, point: unescape(words[4]!), type: words[dash + 1]! }];
  });
};

/** The kernel writes spaces and the like as `\040`. */
const unescape = (path: string): string =>
  path.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCodePoint(Number.parseInt(digits, 8)));

/** Who uses the device, in words; undefined when no one does. */
export const userOfDevice = async (rdev: number): Promise<string | undefined> => {
  const number = deviceNumber(rdev);
  const mounted = (await mounts()).find(({ device }) => device === number);
  if (mounted !== undefined) return `it is mounted at ${mounted.point}`;
  const holders = await readdir(join(folderOf(rdev), 'holders')).catch(() => []);
  return holders.length === 0 ? undefined : `it is in use by ${holders.join(', ')}`;
};

/** The loop devices whose content is this file, as device numbers such as `7:0`. */
export const loopsOf = async (file: string): Promise<string[]> => {
  const names = await readdir('/sys/block').catch(() => []);
  const found = await Promise.all(
    names
      .filter((name) => name.startsWith('loop'))
      .map(async (name) => {
        const backing = await readFile(`/sys/block/${name}/loop/backing_file`, 'utf8').catch(() => '');
        if (backing.trim() !== file) return [];
        return [(await readFile(`/sys/block/${name}/dev`, 'utf8')).trim()];
      }),
  );
  return found.flat();
};
