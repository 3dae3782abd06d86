/** Which slot the running system was booted from, by its own evidence. */
import { readFile } from 'node:fs/promises';
import type { ImageConfig } from '../config/slots-config.ts';
import type { SlotName } from '../domain/slots.ts';
import { isMountedAt } from './image-device.ts';

/** `... sluice.slot=a ...`; the last one counts, as for the kernel. */
export const slotOfCommandLine = (line: string, parameter: string): SlotName | null => {
  const values = line
    .split(/\s+/)
    .filter((word) => word.startsWith(`${parameter}=`))
    .map((word) => word.slice(parameter.length + 1).toLowerCase());
  const value = values.at(-1);
  return value === 'a' || value === 'b' ? value : null;
};

/** Null when there is no evidence. */
export const findRunningSlot = async ({
  running,
  a,
  b,
}: Pick<ImageConfig, 'running' | 'a' | 'b'>): Promise<SlotName | null> => {
  if (running.by === 'command-line') {
    const line = await readFile(running.file, 'utf8').catch(() => '');
    return slotOfCommandLine(line, running.parameter);
  }
  if (await isMountedAt(a, running.point)) return 'a';
  return (await isMountedAt(b, running.point)) ? 'b' : null;
};
