/**
 * SWUpdate (`swupdate -i`): a raw image straight into the slot's file, compressed with zstd, signed as Debian's build
 * asks for.
 */
import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeCertificate } from './certificate.ts';
import { digestOf, type Installer, lacking, measure, run } from './measure.ts';

export const swupdate: Installer = {
  name: 'swupdate',
  lacks: lacking(['swupdate', 'openssl', 'zstd', 'cpio']),
  prepare: async (payload, folder, slot) => {
    makeCertificate(folder);
    const file = 'image.zst';
    run('zstd', ['-q', '-9', '-f', payload.file, '-o', file], folder);
    await writeFile(
      join(folder, 'sw-description'),
      `software = { version = "1"; hardware-compatibility: ["1.0"]; images: ({ filename = "${file}"; device = "${slot}"; type = "raw";
        compressed = "zstd"; installed-directly = true; sha256 = "${await digestOf(createReadStream(join(folder, file)))}"; }); }\n`,
    );
    const signing = [
      '-in',
      'sw-description',
      '-out',
      'sw-description.sig',
      '-signer',
      'certificate.pem',
      '-inkey',
      'key.pem',
    ];
    run('openssl', ['cms', '-sign', ...signing, '-outform', 'DER', '-nosmimecap', '-binary'], folder);
    run(
      'sh',
      ['-c', `printf 'sw-description\\nsw-description.sig\\n${file}\\n' | cpio --quiet -o -H crc > image.swu`],
      folder,
    );
    // Its sockets beside its image. One has a fixed name (@NotifyServer): beside another SWUpdate on this machine it
    // may fail.
    const words = ['-H', 'bench:1.0', '-k', 'certificate.pem', '-M', '-m', '-i', 'image.swu'];
    return async () => {
      return measure('swupdate', words, folder, { TMPDIR: folder });
    };
  },
};
