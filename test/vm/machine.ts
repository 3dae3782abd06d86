/**
 * The virtual machine: an emulator whose drive is ours, whose console we read, and which can lose its power at any
 * moment.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import type { Random } from '#test/simulation/random.ts';
import type { Drive, Fate } from './drive.ts';
import { type DriveEvent, type NbdServer, serveDrive } from './nbd.ts';
import { ENVIRONMENT } from './tools.ts';

const EMULATOR = 'qemu-system-x86_64';
const LINE_CHARACTERS_MAX = 16_384;

export type Machine = {
  powerOn(): void;
  isOn(): boolean;
  /** At once: nothing that is on its way to the drive reaches it any more. Returns what the drive lost. */
  cutPower(fate: Fate, random: Random): Promise<{ unflushed: number; lost: number }>;
  stop(): Promise<void>;
};

export type MachineEvents = {
  line(line: string): void;
  drive(event: DriveEvent): void;
  /** The emulator ended although no one cut its power. */
  died(why: string): void;
};

export const openMachine = async (options: {
  work: string;
  drive: Drive;
  toolsFile: string;
  events: MachineEvents;
}): Promise<Machine> => {
  const socket = join(options.work, 'drive.sock');
  const nbd: NbdServer = await serveDrive(socket, options.drive, (event) => options.events.drive(event));
  let emulator: ChildProcess | undefined;

  const arguments_ = [
    '-M pc -accel tcg -cpu max -m 384 -smp 1 -nodefaults -display none -serial stdio -monitor none',
    `-drive file=nbd+unix:///?socket=${socket},format=raw,if=virtio,cache=writeback,discard=ignore`,
    `-drive file=${options.toolsFile},format=raw,if=virtio,readonly=on`,
    '-netdev user,id=net -device virtio-net-pci,netdev=net,romfile=',
  ].flatMap((words) => words.split(' '));

  const powerOn = (): void => {
    // In a session of its own: a Ctrl-C in the terminal reaches the test alone, which then ends it in order.
    const child = spawn(EMULATOR, arguments_, { env: ENVIRONMENT, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    emulator = child;
    let partial = '';
    child.stdout.on('data', (chunk: Buffer) => {
      if (emulator !== child) return;
      const lines = (partial + chunk.toString('latin1')).split(/\r?\n|\r/);
      partial = (lines.pop() ?? '').slice(-LINE_CHARACTERS_MAX);
      for (const line of lines) {
        // A cut made on one line is blind to the next.
        if (emulator === child && line.trim() !== '') options.events.line(line);
      }
    });
    let complaint = '';
    child.stderr.on('data', (chunk: Buffer) => {
      complaint = (complaint + chunk.toString()).slice(-LINE_CHARACTERS_MAX);
    });
    const died = (why: string): void => {
      if (emulator !== child) return;
      emulator = undefined;
      options.events.died(`${why}: ${complaint}`);
    };
    child.once('error', (error) => died(error.message));
    child.once('exit', (code, signal) => died(`the emulator ended with ${code ?? signal}`));
  };

  const kill = async (): Promise<void> => {
    const child = emulator;
    if (child === undefined) return;
    emulator = undefined;
    const ended = child.exitCode === null && child.signalCode === null;
    const exit = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    nbd.disconnect();
    if (ended) await exit;
  };

  return {
    powerOn,
    isOn: () => emulator !== undefined,
    cutPower: async (fate, random) => {
      const killed = kill();
      const loss = options.drive.cut(fate, random);
      await killed;
      return loss;
    },
    stop: async () => {
      await kill();
      await nbd.stop();
    },
  };
};
