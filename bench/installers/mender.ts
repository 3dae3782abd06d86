/**
 * Mender's client (`mender install`). Its own image installer wants partitions and U-Boot or GRUB; here an update
 * module writes what the client streams to it into the slot's file (`dd`, with an fsync at the end), and shows the
 * least that the client costs. Its folders are fixed, so that it runs with others mounted over them in a namespace of
 * its own.
 */
import { createReadStream } from 'node:fs';
import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { digestOf, type Installer, lacking, measure, run } from './measure.ts';

const MODULES = '/usr/share/mender/modules/v3';
const ETC = '/etc/mender';
const NAMESPACE = ['--mount', '--map-root-user', 'sh', '-c'];

export const mender: Installer = {
  name: 'mender',
  lacks: lacking(['mender', 'unshare', 'gzip', 'tar']) ?? noNamespace(),
  prepare: async (payload, folder, slot) => {
    await makeArtifact(payload.file, folder);
    await makeModule(slot, folder);
    const settings = { ServerURL: 'http://127.0.0.1:1', DeviceTypeFile: join(folder, 'device-type') };
    await writeFile(join(folder, 'mender.json'), JSON.stringify(settings));
    await writeFile(settings.DeviceTypeFile, 'device_type=bench\n');
    const mounts = `mount --bind modules ${MODULES} && mount --bind etc ${ETC} && exec "$0" "$@"`;
    const data = join(folder, 'data');
    const words = ['--config', 'mender.json', '--fallback-config', '/nonexistent', '--data', data, '--no-syslog'];
    return async () => {
      await rm(data, { recursive: true, force: true });
      await mkdir(data);
      return measure('unshare', [...NAMESPACE, mounts, 'mender', ...words, 'install', 'image.mender'], folder);
    };
  },
};

function noNamespace(): string | undefined {
  try {
    run('unshare', [...NAMESPACE, `mount --bind ${MODULES} ${MODULES} && mount --bind ${ETC} ${ETC}`], '/');
    return undefined;
  } catch {
    return 'nothing may be mounted here, not even in a namespace';
  }
}

const makeModule = async (slot: string, folder: string): Promise<void> => {
  await mkdir(join(folder, 'modules'));
  await mkdir(join(folder, 'etc'));
  await writeFile(join(folder, 'etc', 'artifact_info'), 'artifact_name=before\n');
  const module = join(folder, 'modules', 'bench-image');
  const lines = [
    '#!/bin/sh',
    'case "$1" in',
    'Download)',
    '  read -r stream < stream-next',
    `  dd if="$stream" of='${slot}' bs=1M iflag=fullblock conv=notrunc,fsync status=none || exit 1`,
    '  read -r end < stream-next;;',
    'NeedsArtifactReboot|SupportsRollback) echo No;;',
    'esac',
    'exit 0',
  ];
  await writeFile(module, `${lines.join('\n')}\n`);
  await chmod(module, 0o755);
};

/** Format 3 by hand, compressed with gzip as `mender-artifact` does unless told otherwise. */
const makeArtifact = async (file: string, folder: string): Promise<void> => {
  const put = async (path: string, content: object): Promise<void> => {
    await mkdir(join(folder, path, '..'), { recursive: true });
    await writeFile(join(folder, path), JSON.stringify(content));
  };
  const pack = (out: string, files: string[]): string =>
    run('sh', ['-c', 'out=$0; tar --format=ustar -cf - "$@" | gzip -n > "$out"', out, ...files], folder);
  const digest = (path: string): Promise<string> => digestOf(createReadStream(join(folder, path)));
  await put('version', { format: 'mender', version: 3 });
  await put('header-info', {
    payloads: [{ type: 'bench-image' }],
    artifact_provides: { artifact_name: 'after' },
    artifact_depends: { device_type: ['bench'] },
  });
  await put('headers/0000/type-info', { type: 'bench-image', artifact_provides: { 'rootfs-image.version': 'after' } });
  await put('headers/0000/meta-data', {});
  pack('header.tar.gz', ['header-info', 'headers/0000/type-info', 'headers/0000/meta-data']);
  run('ln', ['-f', file, 'image'], folder);
  await mkdir(join(folder, 'data'));
  pack('data/0000.tar.gz', ['image']);
  const listed = [
    ['data/0000/image', await digest('image')],
    ['header.tar.gz', await digest('header.tar.gz')],
    ['version', await digest('version')],
  ];
  await writeFile(join(folder, 'manifest'), listed.map(([name, digest]) => `${digest}  ${name}\n`).join(''));
  run(
    'tar',
    ['--format=ustar', '-cf', 'image.mender', 'version', 'manifest', 'header.tar.gz', 'data/0000.tar.gz'],
    folder,
  );
};
