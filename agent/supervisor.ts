/** Runs the one application of this device, as its own process group, and leaves nothing behind. */
import type { SlotName } from './slots/slots.ts';

/** What to run. `command[0]` = `node` means the Node that runs the agent. */
export type Application = {
  slot: SlotName;
  command: string[];
  /** The slot's folder: the working directory. */
  folder: string;
  /** From `manifest.run.environment`, and `SLUICE_*`. The agent's own environment is not inherited, but for PATH and the like. */
  environment: Record<string, string>;
  /** `restart` after a commit: an exit starts it again, with backoff. `report`, on trial: an exit only calls the listeners. */
  onExit: 'restart' | 'report';
};

/** `restartInMs` is null when nobody starts it again by itself. */
export type ApplicationExit = {
  slot: SlotName;
  code: number | null;
  signal: NodeJS.Signals | null;
  ranMs: number;
  restartInMs: number | null;
};

export type Supervisor = {
  /** Stops what runs and starts this. Failing to execute shows as an exit with code 126 or 127, as in a shell. */
  start(application: Application): Promise<{ ok: true } | { ok: false; message: string }>;
  /** What runs at this moment, by the process table; null between an exit and the next start. */
  running(): { slot: SlotName; pid: number; sinceMs: number } | null;
  /** After a commit: from now on start it again when it exits. */
  keepRunning(): void;
  /** Called at every exit that `stop` or `start` did not cause. Returns how to stop listening. */
  listen(listener: (exit: ApplicationExit) => void): () => void;
  /** The last lines that the application wrote (stdout and stderr), at most `bytesMax` bytes of them. */
  lastOutput(bytesMax: number): Promise<string>;
  /** SIGTERM to the group, SIGKILL after `stopMs`; returns when nothing of it runs any more. Idempotent. */
  stop(): Promise<void>;
};

export type SupervisorOptions = {
  /** Of the agent's own state: the pid file `application.json` and the output `application.log` live here. */
  dir: string;
  /** The application's `PORT`, if it has one. */
  port?: number;
  /** From SIGTERM to SIGKILL. Default 5,000. */
  stopMs?: number;
  /** First and longest wait before a restart. Default 1,000 and 60,000. */
  backoffMs?: { first: number; max: number };
  /** The size at which the output is rotated; two files are kept. Default 256 KiB. */
  logBytesMax?: number;
};

/** Opens the supervisor; first kills what a killed agent has left behind. */
export const openSupervisor = async (_options: SupervisorOptions): Promise<Supervisor> => {
  throw new Error('not built yet');
};
