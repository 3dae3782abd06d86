/** A moment that no one sets: how long the machine has been up, with the time that it slept, in which of its boots. */
import { readFile } from 'node:fs/promises';
import { uptime } from 'node:os';
import { z } from 'zod';

export const Uptime = z.object({ bootId: z.string().max(128), uptimeMs: z.number().int().min(0) });
export type Uptime = z.infer<typeof Uptime>;

/** Changes with every boot of the machine. */
export const machineBootId = async (): Promise<string> =>
  (await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => 'unknown')).trim();

export const machineUptime = async (): Promise<Uptime> => ({
  bootId: await machineBootId(),
  uptimeMs: Math.round(uptime() * 1_000),
});
