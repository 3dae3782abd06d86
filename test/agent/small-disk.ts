/** File systems of a few mebibytes. They can be made by root only, and not in every container: ask `canMount` first. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

export const canMount = (): boolean =>
  process.getuid?.() === 0 && spawnSync('unshare', ['-m', 'mount', '-t', 'tmpfs', 'none', '/mnt']).status === 0;

export const mountSmall = (dir: string, bytes: number): (() => void) => {
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'none', dir]);
  return () => void execFileSync('umount', ['-l', dir]);
};

/** A folder that is such a file system, as long as the test takes. */
export const smallDisk = async (bytes: number): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-disk-'));
  const unmount = mountSmall(dir, bytes);
  onTestFinished(async () => {
    unmount();
    await rm(dir, { recursive: true, force: true });
  });
  return dir;
};
