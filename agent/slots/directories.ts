/** The directories adapter: an application's A/B pair as two folders, run by the agent's own supervisor. */
import { join } from 'node:path';
import type { Supervisor } from '../supervisor.ts';
import type { SlotName, Slots } from './slots.ts';

export type DirectorySlotsOptions = {
  /** Holds `a/`, `b/`, what is known of each (`a.json`, `a.files`), and the boot selector (`boot.0.json`, `boot.1.json`). */
  dir: string;
  supervisor: Supervisor;
  /** A folder for the application's own data, which survives updates: its `SLUICE_DATA`. Made if it is not there. */
  dataDir?: string;
  /** The most that one slot may take on disk. Default 8 GiB. */
  slotBytesMax?: number;
  /** Called after every durable step; tests cut the power there. Default `crashPoint` of agent/crash-point.ts. */
  crashPoint?: (name: string) => void;
};

/** Where a slot's files are: the application's working directory. */
export const slotFolder = (dir: string, slot: SlotName): string => join(dir, slot);

export const openDirectorySlots = async (_options: DirectorySlotsOptions): Promise<Slots> => {
  throw new Error('not built yet');
};
