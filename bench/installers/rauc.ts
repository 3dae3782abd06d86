/**
 * RAUC: its service on a bus of its own, and `rauc install` of a bundle (squashfs with zstd) that is mounted through a
 * loop device.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { chmod, copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { makeCertificate } from './certificate.ts';
import { type Installer, lacking, type Measured, measure, memoryOf, run } from './measure.ts';

const READY_MS_MAX = 30_000;

export const rauc: Installer = {
  name: 'rauc',
  lacks:
    lacking(['rauc', 'mksquashfs', 'dbus-daemon', 'openssl']) ??
    (process.getuid?.() === 0 ? undefined : 'it mounts bundles, which needs root'),
  prepare: async (payload, folder, slot) => {
    makeCertificate(folder);
    const content = join(folder, 'content');
    await mkdir(content);
    await copyFile(payload.file, join(content, 'image.img'));
    const manifest =
      '[update]\ncompatible=bench\nversion=1\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=image.img\n';
    await writeFile(join(content, 'manifest.raucm'), manifest);
    const making = ['--cert=certificate.pem', '--key=key.pem', '--mksquashfs-args=-comp zstd -Xcompression-level 9'];
    run('rauc', [...making, 'bundle', 'content', 'image.raucb'], folder);
    await rm(content, { recursive: true });
    await configure(folder, slot);
    return async () => {
      return withService(folder, (environment, service) => install(folder, environment, service));
    };
  },
};

const configure = async (folder: string, slot: string): Promise<void> => {
  const backend = join(folder, 'backend');
  await writeFile(backend, '#!/bin/sh\ncase "$1" in get-primary) echo A;; get-state) echo good;; esac\n');
  await chmod(backend, 0o755);
  await mkdir(join(folder, 'mounts'));
  await writeFile(join(folder, 'other-slot'), 'A');
  const raw = (index: number, device: string, bootname: string): string =>
    `[slot.rootfs.${index}]\ndevice=${device}\ntype=raw\nbootname=${bootname}\n`;
  await writeFile(
    join(folder, 'system.conf'),
    `[system]\ncompatible=bench\nbootloader=custom\nactivate-installed=false\nbundle-formats=plain\nmountprefix=${folder}/mounts\n` +
      `statusfile=${folder}/status\n[handlers]\nbootloader-custom-backend=${backend}\n[keyring]\npath=${folder}/certificate.pem\n` +
      raw(0, join(folder, 'other-slot'), 'A') +
      raw(1, slot, 'B'),
  );
};

/** The service does the work: its memory counts. */
const install = async (folder: string, environment: Record<string, string>, service: number): Promise<Measured> => {
  // What was installed last is not skipped.
  await rm(join(folder, 'status'), { force: true });
  const { ms } = await measure('rauc', ['install', 'image.raucb'], folder, environment);
  return { ms, rssMB: await memoryOf(service, 'VmHWM') };
};

const withService = async (
  folder: string,
  act: (environment: Record<string, string>, pid: number) => Promise<Measured>,
): Promise<Measured> => {
  const log = join(folder, 'service.log');
  const output = openSync(log, 'w');
  const bus = spawn('dbus-daemon', ['--session', '--nofork', '--nopidfile', '--print-address=1'], {
    stdio: ['ignore', 'pipe', output],
  });
  const ended = [once(bus, 'exit')];
  let service: ChildProcess | undefined;
  try {
    const [address] = (await once(bus.stdout!, 'data')) as [Buffer];
    const environment = { DBUS_STARTER_BUS_TYPE: 'session', DBUS_SESSION_BUS_ADDRESS: String(address).trim() };
    const words = ['service', '--conf=system.conf', '--override-boot-slot=A'];
    service = spawn('rauc', words, {
      cwd: folder,
      env: { ...process.env, ...environment },
      stdio: ['ignore', output, output],
    });
    ended.push(once(service, 'exit'));
    await answers(folder, environment, log);
    return await act(environment, service.pid!);
  } catch (error) {
    throw new Error(`RAUC: ${(await readFile(log, 'utf8')).slice(-2_000)}`, { cause: error });
  } finally {
    service?.kill();
    bus.kill();
    await Promise.all(ended);
    closeSync(output);
  }
};

const answers = async (folder: string, environment: Record<string, string>, log: string): Promise<void> => {
  const deadline = performance.now() + READY_MS_MAX;
  for (;;) {
    try {
      run('rauc', ['status'], folder, environment);
      return;
    } catch (error) {
      if (performance.now() > deadline) throw new Error(`its service does not answer: see ${log}`, { cause: error });
      await pause(50);
    }
  }
};
