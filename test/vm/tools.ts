/** What the test needs of the machine, and the kernel, which it fetches once from the distribution. */
import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..');
const CACHE = join(ROOT, 'node_modules', '.cache', 'vm');
const COMMAND_BYTES_MAX = 16 * 1024 * 1024;

/**
 * In `/sbin` too, which is not in everyone's path. File systems are made at the same time always, so that the same
 * content is the same bytes.
 */
export const ENVIRONMENT = {
  ...process.env,
  PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`,
  E2FSPROGS_FAKE_TIME: '1000000000',
};

export const run = async (command: string, arguments_: string[], cwd?: string): Promise<string> => {
  const { stdout } = await execute(command, arguments_, { cwd, env: ENVIRONMENT, maxBuffer: COMMAND_BYTES_MAX });
  return stdout;
};

const COMMANDS: Record<string, string> = {
  'qemu-system-x86_64': 'qemu-system-x86',
  'grub-mkimage': 'grub-common',
  'grub-editenv': 'grub-common',
  mke2fs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  dd: 'coreutils',
  busybox: 'busybox-static',
  cpio: 'cpio',
  ldd: 'libc-bin',
  'apt-get': 'apt',
  'dpkg-deb': 'dpkg',
};
export const GRUB_FOLDER = '/usr/lib/grub/i386-pc';

const exists = (file: string): Promise<boolean> =>
  access(file).then(
    () => true,
    () => false,
  );

/** Packages whose commands are not there; empty when the test can run. */
export const missingPackages = async (): Promise<string[]> => {
  const folders = ENVIRONMENT.PATH.split(':');
  const found = async (command: string): Promise<boolean> =>
    (await Promise.all(folders.map((folder) => exists(join(folder, command))))).includes(true);
  const missing = new Set<string>();
  for (const [command, owner] of Object.entries(COMMANDS)) if (!(await found(command))) missing.add(owner);
  if (!(await exists(join(GRUB_FOLDER, 'boot.img')))) missing.add('grub-pc-bin');
  if (process.arch !== 'x64') missing.add('an x64 machine');
  return [...missing];
};

export type Kernel = { image: string; modules: string };

/** A kernel of the distribution, unpacked into the cache; undefined where its packages cannot be had. */
export const fetchKernel = async (): Promise<Kernel | undefined> => {
  await mkdir(CACHE, { recursive: true });
  const unpacked = join(CACHE, 'kernel');
  if (!(await exists(unpacked))) {
    const fresh = await mkdtemp(join(CACHE, 'fetch-'));
    try {
      const named = /Depends: (linux-image-\S+)/.exec(await run('apt-cache', ['show', 'linux-image-cloud-amd64']));
      if (named === null) return undefined;
      await run('apt-get', ['download', named[1]!], fresh);
      const archive = (await readdir(fresh)).find((name) => name.endsWith('.deb'));
      if (archive === undefined) return undefined;
      await run('dpkg-deb', ['-x', archive, 'unpacked'], fresh);
      await rename(join(fresh, 'unpacked'), unpacked);
    } catch {
      return undefined;
    } finally {
      await rm(fresh, { recursive: true, force: true });
    }
  }
  const image = (await readdir(join(unpacked, 'boot'))).find((name) => name.startsWith('vmlinuz-'));
  const version = image?.slice('vmlinuz-'.length);
  if (image === undefined || version === undefined) return undefined;
  const modules = (await exists(join(unpacked, 'lib'))) ? 'lib/modules' : 'usr/lib/modules';
  return { image: join(unpacked, 'boot', image), modules: join(unpacked, modules, version) };
};
