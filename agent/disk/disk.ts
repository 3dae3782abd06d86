/**
 * What is wrong with the disk that the data folder is on: full, read-only, or failing. The agent goes on without what
 * it cannot write, so this is how people hear of it: the log, `status.json` and the local API, and the reported
 * attribute `disk`.
 */
import { access, constants, mkdir, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileDurably } from '#shared/durable.ts';
import type { Log } from '../log.ts';
import { errorCode, isFull, isSystemError } from '../process/system-error.ts';

export type DiskTrouble = {
  state: 'full' | 'read-only' | 'failing';
  since: number;
  /** What could not be written, and why. */
  message: string;
};

export type Disk = {
  trouble(): DiskTrouble | null;
  attributes(): Record<string, string>;
  /**
   * This could not be written, and the agent went on. Anything but a refusal of the system is thrown again: it is a
   * bug.
   */
  missed: (what: string, error: unknown) => void;
  /** Does it, and goes on where the system refuses. */
  attempt(what: string, act: () => Promise<unknown>): Promise<void>;
  /** Makes a folder of the agent's; where that is not possible now, once it is. */
  folder(dir: string, mode?: number): Promise<void>;
  /** Looks now, and from now on. `onFull`: what the agent can do without is to go. */
  watch(told: { onChange(): void; onFull(): Promise<void> }): Promise<void>;
  stop(): void;
};

/** With less than this others can write nothing any more, even where root still can. */
const FULL_BYTES = 64 * 1024;
const LOOK_MS = 30_000;
const SAID_AGAIN_MS = 3_600_000;
const SENTENCES: Record<DiskTrouble['state'], string> = {
  full: 'the disk is full',
  'read-only': 'the disk can only be read',
  failing: 'the disk fails',
};

const stateOf = (error: unknown): DiskTrouble['state'] => {
  if (isFull(error)) return 'full';
  return errorCode(error) === 'EROFS' ? 'read-only' : 'failing';
};

export const openDisk = (dataDir: string, now: () => number, log: Log): Disk => {
  const probe = join(dataDir, 'probe');
  const lacking = new Map<string, number | undefined>();
  let trouble: DiskTrouble | null = null;
  let saidAt = Number.NEGATIVE_INFINITY;
  let told: Parameters<Disk['watch']>[0] | undefined;
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;

  const enter = (next: Omit<DiskTrouble, 'since'>): void => {
    const isNews = trouble?.state !== next.state;
    trouble = { ...next, since: isNews ? now() : trouble!.since };
    if (isNews || performance.now() - saidAt >= SAID_AGAIN_MS) {
      saidAt = performance.now();
      log.error({ event: 'disk-trouble', disk: next.state }, `${SENTENCES[next.state]}: ${next.message}`);
    }
    if (isNews) told?.onChange();
  };
  const missed = (what: string, error: unknown): void => {
    if (!isSystemError(error)) throw error;
    enter({ state: stateOf(error), message: `${what} cannot be written: ${errorCode(error)}` });
  };
  const makeLacking = async (): Promise<void> => {
    for (const [dir, mode] of lacking) {
      await mkdir(dir, { recursive: true, ...(mode === undefined ? {} : { mode }) });
      lacking.delete(dir);
    }
  };
  /** Only what is in trouble is written to. A disk that is only read says so without. */
  const look = async (): Promise<void> => {
    try {
      await access(dataDir, constants.W_OK);
      const { bavail, bsize, blocks } = await statfs(dataDir);
      const free = bavail * bsize;
      // Some file systems do not say what they have.
      if (blocks > 0 && free < FULL_BYTES) enter({ state: 'full', message: `${free} bytes are free` });
      if (trouble?.state === 'full') await told?.onFull();
      if (blocks > 0 && free < FULL_BYTES) return;
      if (trouble === null && lacking.size === 0) return;
      await makeLacking();
      await writeFileDurably(probe, 'written', 0o600);
      await rm(probe, { force: true });
    } catch (error) {
      return missed('the data folder', error);
    }
    if (trouble === null) return;
    trouble = null;
    log.info({ event: 'disk-well' }, 'the disk can be written again');
    told?.onChange();
  };
  const attempt = async (what: string, act: () => Promise<unknown>): Promise<void> => {
    try {
      await act();
    } catch (error) {
      missed(what, error);
    }
  };

  return {
    trouble: () => trouble,
    attributes: () => (trouble === null ? {} : { disk: trouble.state }),
    missed,
    attempt,
    folder: async (dir, mode) => {
      lacking.set(dir, mode);
      await attempt(dir, makeLacking);
    },
    watch: async (who) => {
      told = who;
      clearTimeout(timer);
      const again = (): void => {
        if (stopped) return;
        timer = setTimeout(() => void look().finally(again), LOOK_MS);
        timer.unref();
      };
      await look();
      again();
    },
    stop: () => {
      stopped = true;
      clearTimeout(timer);
    },
  };
};
