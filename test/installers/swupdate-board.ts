/** A device with SWUpdate and GRUB: two copies in files, a .swu that is signed as the distribution's build asks for. */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { GRUB_EDITENV, grubRig, hasTool, OWN_ACCESS, run } from '../agent/slots/selectors/rigs.ts';
import type { Board } from './board.ts';
import { makeCertificate } from './certificate.ts';

export const swupdateBoard = async (): Promise<Board> => {
  const rig = await grubRig(hasTool('grub-editenv') ? GRUB_EDITENV : OWN_ACCESS);
  const at = (name: string): string => join(rig.dir, name);
  const { key, certificate } = makeCertificate(rig.dir);
  const description = (version: string, sha256: string): string => {
    const copy = (name: string, slot: string): string =>
      `${name} : { images: ( { filename = "rootfs.img"; device = "${at(slot)}"; type = "raw"; sha256 = "${sha256}"; installed-directly = true; } ); };`;
    return `software = { version = "${version}"; hardware-compatibility = [ "1.0" ];
stable = { ${copy('copy-1', 'slot-a')} ${copy('copy-2', 'slot-b')} }; }\n`;
  };
  return {
    handler: 'swupdate',
    rig,
    slots: {
      installer: 'swupdate',
      command: ['swupdate', '-k', certificate, '-H', 'gw-test:1.0'],
      a: at('slot-a'),
      b: at('slot-b'),
      selector: rig.settings,
      running: { by: 'command-line', file: at('cmdline') },
    },
    pack: async (version, image) => {
      const content = at(`content-${version}`);
      await mkdir(content);
      const inside = (name: string): string => join(content, name);
      await writeFile(inside('rootfs.img'), image);
      await writeFile(inside('sw-description'), description(version, createHash('sha256').update(image).digest('hex')));
      const files = ['-in', inside('sw-description'), '-out', inside('sw-description.sig')];
      const how = ['-signer', certificate, '-inkey', key, '-outform', 'DER', '-nosmimecap', '-binary'];
      run('openssl', ['cms', '-sign', ...files, ...how]);
      const names = 'sw-description\nsw-description.sig\nrootfs.img\n';
      const archive = execFileSync('cpio', ['-o', '-H', 'crc'], {
        cwd: content,
        input: names,
        stdio: ['pipe', 'pipe', 'ignore'],
        maxBuffer: 64 * 1024 * 1024,
      });
      await writeFile(at(`${version}.swu`), archive);
      return readFile(at(`${version}.swu`));
    },
  };
};
