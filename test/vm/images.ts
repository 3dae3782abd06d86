/**
 * Makes what the virtual machine boots, without being root: slot images, a drive with GRUB and four partitions, a drive
 * with Node and the agent.
 */
import { createHash } from 'node:crypto';
import { copyFile, cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { SECTOR_BYTES } from './drive.ts';
import { GRUB_FOLDER, type Kernel, run } from './tools.ts';

const MIB = 1024 * 1024;
const SLOT_BYTES = 20 * MIB;
const GUEST = join(import.meta.dirname, 'guest');
/** The same bytes from the same content: what did not change between releases need not be fetched. */
const FIXED_UUID = '5100ce00-0000-4000-8000-000000000000';
const MODULES = ['virtio_ring', 'virtio', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci'].concat(
  'virtio_blk',
  'failover',
  'net_failover',
  'virtio_net',
);

/** What is wrong with a release, if anything is. */
const FAULTS = ['none', 'kernel-corrupt', 'init-exits', 'init-panics', 'init-hangs'] as const;
export type Fault = (typeof FAULTS)[number];
export type SlotImage = { version: string; fault: Fault; file: string; sha256: string };

/** In MiB from the start of the drive; the boot loader is before the first. */
export const PARTITIONS = {
  boot: { at: 1 * MIB, bytes: 8 * MIB },
  a: { at: 9 * MIB, bytes: SLOT_BYTES },
  b: { at: 29 * MIB, bytes: SLOT_BYTES },
  data: { at: 49 * MIB, bytes: 96 * MIB },
} as const;
const DRIVE_BYTES = PARTITIONS.data.at + PARTITIONS.data.bytes;

const makeFileSystem = async (
  kind: 'ext2' | 'ext4',
  file: string,
  bytes: number,
  folder: string,
  options: string[] = [],
): Promise<void> => {
  await rm(file, { force: true });
  await run('find', [folder, '-exec', 'touch', '-h', '-d', '@0', '{}', '+']);
  const fixed = ['-U', FIXED_UUID, '-E', `root_owner=0:0,hash_seed=${FIXED_UUID},lazy_itable_init=0`];
  await run('mke2fs', ['-q', '-t', kind, '-d', folder, '-m', '0', ...fixed, ...options, file, `${bytes / 1024}k`]);
};

const findFile = async (folder: string, name: string): Promise<string> => {
  const found = (await readdir(folder, { recursive: true })).find((path) => basename(path) === name);
  if (found === undefined) throw new Error(`there is no ${name} in ${folder}`);
  return join(folder, found);
};

/** A `newc` archive of the folder, as kernels take it. */
const archive = (folder: string, file: string): Promise<string> =>
  run(
    'sh',
    ['-c', `find . -mindepth 1 | LC_ALL=C sort | cpio --quiet --reproducible -R 0:0 -H newc -o > "$0"`, file],
    folder,
  );

/** The part of the initial file system that all releases share. */
export const makeBase = async (kernel: Kernel, work: string): Promise<string> => {
  const folder = join(work, 'base');
  await mkdir(join(folder, 'bin'), { recursive: true });
  await mkdir(join(folder, 'lib', 'modules'), { recursive: true });
  const busybox = (await run('sh', ['-c', 'command -v busybox'])).trim();
  await copyFile(busybox, join(folder, 'bin', 'busybox'));
  for (const name of MODULES)
    await copyFile(await findFile(kernel.modules, `${name}.ko`), join(folder, 'lib', 'modules', `${name}.ko`));
  await symlink('/tools/lib', join(folder, 'lib64'));
  await copyFile(join(GUEST, 'init'), join(folder, 'init'));
  const file = join(work, 'base.cpio');
  await archive(folder, file);
  return file;
};

/** An ext2 file system of the slot's size with kernel, initial file system, and the release's name. */
export const makeSlotImage = async (
  parts: { kernel: Kernel; base: string; work: string },
  release: { version: string; fault: Fault },
): Promise<SlotImage> => {
  const { version, fault } = release;
  const root = join(parts.work, `root-${version}`);
  const own = join(parts.work, `own-${version}`);
  await mkdir(join(own, 'etc'), { recursive: true });
  await mkdir(root);
  await writeFile(join(own, 'etc', 'release-version'), `${version}\n`);
  await writeFile(join(own, 'etc', 'vm-fault'), `${fault}\n`);
  await archive(own, join(parts.work, `own-${version}.cpio`));
  const initial = [await readFile(parts.base), await readFile(join(parts.work, `own-${version}.cpio`))];
  await writeFile(join(root, 'initrd'), Buffer.concat(initial));
  const kernel = await readFile(parts.kernel.image);
  // The header goes, by which a boot loader knows a kernel.
  if (fault === 'kernel-corrupt') kernel.fill(0x5a, 0x1f0, 0x400);
  await writeFile(join(root, 'vmlinuz'), kernel);
  const file = join(parts.work, `${version}.img`);
  await makeFileSystem('ext2', file, SLOT_BYTES, root, ['-O', '^resize_inode,^dir_index', '-N', '32', '-b', '4096']);
  await Promise.all([root, own, join(parts.work, `own-${version}.cpio`)].map((path) => rm(path, { recursive: true })));
  return {
    version,
    fault,
    file,
    sha256: createHash('sha256')
      .update(await readFile(file))
      .digest('hex'),
  };
};

/** Read-only: Node with its libraries, the agent in one file, its configuration, and how it is started. */
export const makeToolsDrive = async (work: string, agentFile: string, config: object): Promise<string> => {
  const folder = join(work, 'tools');
  await mkdir(join(folder, 'lib'), { recursive: true });
  await mkdir(join(folder, 'bin'), { recursive: true });
  await copyFile(process.execPath, join(folder, 'bin', 'node'));
  for (const [, library] of (await run('ldd', [process.execPath])).matchAll(/(\/\S+) \(0x/g))
    await copyFile(library!, join(folder, 'lib', basename(library!)));
  await copyFile(agentFile, join(folder, 'agent.mjs'));
  await writeFile(join(folder, 'config.json'), JSON.stringify(config));
  await cp(join(GUEST, 'agent'), join(folder, 'agent'));
  const file = join(work, 'tools.img');
  await makeFileSystem('ext2', file, 176 * MIB, folder);
  return file;
};

const GRUB_MODULES = [
  'biosdisk',
  'part_msdos',
  'ext2',
  'fat',
  'normal',
  'configfile',
  'linux',
  'loadenv',
  'test',
  'echo',
].concat('serial', 'reboot', 'sleep', 'regexp', 'search', 'search_fs_file', 'search_label', 'minicmd', 'halt', 'true');

/**
 * The boot sector, and GRUB's core right behind it: what `grub-install` does on a BIOS machine, without its being root.
 */
const installGrub = async (media: Buffer, work: string): Promise<void> => {
  const core = join(work, 'core.img');
  const options = ['-O', 'i386-pc', '-d', GRUB_FOLDER, '-p', '(hd0,msdos1)/grub', '-o', core];
  await run('grub-mkimage', [...options, ...GRUB_MODULES]);
  const bytes = await readFile(core);
  if (SECTOR_BYTES + bytes.length > PARTITIONS.boot.at) throw new Error('GRUB does not fit before the first partition');
  const bootSector = await readFile(join(GRUB_FOLDER, 'boot.img'));
  bootSector.copy(media, 0, 0, 440);
  bytes.copy(media, SECTOR_BYTES);
};

const writePartitionTable = (media: Buffer): void => {
  for (const [index, { at, bytes }] of Object.values(PARTITIONS).entries()) {
    const entry = 446 + 16 * index;
    media.writeUInt8(0x83, entry + 4);
    media.writeUInt32LE(at / SECTOR_BYTES, entry + 8);
    media.writeUInt32LE(bytes / SECTOR_BYTES, entry + 12);
  }
  media.writeUInt16LE(0xaa55, 510);
};

/**
 * The drive as it leaves the factory: `boot` is the folder of the boot partition, `data` of the data partition; slot A
 * holds the image.
 */
export const makeDrive = async (
  work: string,
  content: { boot: string; data: string; factory: SlotImage },
): Promise<Buffer> => {
  const media = Buffer.alloc(DRIVE_BYTES);
  await installGrub(media, work);
  writePartitionTable(media);
  const put = async (file: string, at: number): Promise<void> => {
    (await readFile(file)).copy(media, at);
  };
  const file = join(work, 'partition.img');
  await makeFileSystem('ext4', file, PARTITIONS.boot.bytes, content.boot);
  await put(file, PARTITIONS.boot.at);
  await makeFileSystem('ext4', file, PARTITIONS.data.bytes, content.data);
  await put(file, PARTITIONS.data.at);
  await put(content.factory.file, PARTITIONS.a.at);
  await rm(file);
  return media;
};

export const slotDigest = (media: Buffer, slot: 'a' | 'b'): string => {
  const { at, bytes } = PARTITIONS[slot];
  return createHash('sha256')
    .update(media.subarray(at, at + bytes))
    .digest('hex');
};
