/**
 * A device with RAUC: its service on a bus of its own, slots in two files, and a boot loader in a shell script (RAUC's
 * custom backend) that counts down as U-Boot does with RAUC's variables.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { SlotName } from '#agent/domain/slots.ts';
import { until } from '../agent/harness.ts';
import { folder, run } from '../agent/slots/selectors/rigs.ts';
import type { Board } from './board.ts';
import { makeCertificate } from './certificate.ts';

const ATTEMPTS = 3;

/** `primary`, `left_A`, `left_B`, in files; each verb as RAUC's manual has it. */
const backend = (dir: string): string => `#!/bin/sh
cd '${dir}'
case "$1" in
  get-primary) p=$(cat primary); [ "$(cat left_$p)" -gt 0 ] && echo $p && exit; [ $p = A ] && echo B || echo A ;;
  set-primary) echo $2 > primary; echo ${ATTEMPTS} > left_$2 ;;
  get-state) [ "$(cat left_$2)" -gt 0 ] && echo good || echo bad ;;
  set-state) [ "$3" = good ] && echo ${ATTEMPTS} > left_$2 || echo 0 > left_$2 ;;
esac
`;
const bus = (dir: string): string => `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=${dir}/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>
`;
const system = (dir: string): string => `[system]
compatible=gw-test
bootloader=custom
mountprefix=${dir}/mnt
statusfile=${dir}/rauc.status
activate-installed=false
bundle-formats=plain
[keyring]
path=${dir}/certificate.pem
[handlers]
bootloader-custom-backend=${dir}/backend.sh
[slot.rootfs.0]
device=${dir}/slot-a
type=raw
bootname=A
[slot.rootfs.1]
device=${dir}/slot-b
type=raw
bootname=B
`;

export const raucBoard = async (): Promise<Board> => {
  const dir = await folder();
  const at = (name: string): string => join(dir, name);
  const { key, certificate } = makeCertificate(dir);
  await mkdir(at('mnt'));
  await writeFile(at('backend.sh'), backend(dir), { mode: 0o755 });
  await writeFile(at('bus.conf'), bus(dir));
  await writeFile(at('system.conf'), system(dir));
  await writeFile(at('primary'), 'A\n');
  await writeFile(at('left_A'), `${ATTEMPTS}\n`);
  await writeFile(at('left_B'), '0\n');
  const environment = { DBUS_SYSTEM_BUS_ADDRESS: `unix:path=${at('bus')}` };
  const rauc = (...words: string[]): string[] => ['rauc', '-c', at('system.conf'), ...words];
  const start = (command: string[]): ChildProcess => {
    const child = spawn(command[0]!, command.slice(1), { env: { ...process.env, ...environment }, stdio: 'ignore' });
    onTestFinished(() => end(child));
    return child;
  };
  start(['dbus-daemon', `--config-file=${at('bus.conf')}`, '--nofork']);
  let service: ChildProcess | undefined;

  const isUp = (): boolean => {
    try {
      run('env', [`DBUS_SYSTEM_BUS_ADDRESS=${environment.DBUS_SYSTEM_BUS_ADDRESS}`, ...rauc('status')]);
      return true;
    } catch {
      return false;
    }
  };
  const left = async (name: string): Promise<number> => Number(await readFile(at(`left_${name}`), 'utf8'));
  const powerOn = async (): Promise<SlotName> => {
    const primary = (await readFile(at('primary'), 'utf8')).trim();
    const name = (await left(primary)) > 0 ? primary : primary === 'A' ? 'B' : 'A';
    await writeFile(at(`left_${name}`), `${Math.max(0, (await left(name)) - 1)}\n`);
    if (service !== undefined) await end(service);
    service = start(rauc('service', `--override-boot-slot=${name}`));
    await until("RAUC's service answers", isUp);
    return name === 'A' ? 'a' : 'b';
  };
  return {
    handler: 'rauc',
    rig: { dir, powerOn, settings: {} },
    slots: { installer: 'rauc', command: rauc(), environment },
    pack: async (version, image) => {
      const content = at(`content-${version}`);
      await mkdir(content);
      await writeFile(join(content, 'rootfs.img'), image);
      const manifest = `[update]\ncompatible=gw-test\nversion=${version}\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=rootfs.img\n`;
      await writeFile(join(content, 'manifest.raucm'), manifest);
      const bundle = at(`${version}.raucb`);
      run('rauc', ['bundle', `--cert=${certificate}`, `--key=${key}`, content, bundle]);
      return readFile(bundle);
    },
  };
};

const end = async (child: ChildProcess): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
};
