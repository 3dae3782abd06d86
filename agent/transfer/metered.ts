/** What may be fetched over a link that costs money: whether it does says a program or a file on the device. */
import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { runCommand } from '../application/command.ts';
import { MeteredConfig } from '../config/metered-config.ts';
import type { Log } from '../log.ts';
import { lookOutside } from '../process/outside.ts';
import { errorCode } from '../process/system-error.ts';

const COMMAND_MS_MAX = 10_000;
/** What the device says is believed for so long. */
const LOOK_MS = 30_000;

export type MeteredOptions = {
  config: MeteredConfig;
  /** Where the command runs. */
  folder: string;
  /** For how long this fetch has gone on, in earlier lives of the agent too. */
  elapsedMs: number;
  /** When it is in vain, by `now`. */
  expires: number;
  now: () => number;
  log: Pick<Log, 'info'>;
  /** Between two looks. */
  lookMs?: number;
};

/** Waits until so many bytes more may be fetched; false: not in time. `fetched` counts what came in this deployment. */
export const openMetered = (options: MeteredOptions) => {
  const { config, now, log } = options;
  const lookMs = options.lookMs ?? LOOK_MS;
  const until =
    config.policy === 'delay' ? performance.now() + config.delayMs - options.elapsedMs : Number.POSITIVE_INFINITY;
  let freeUntil = Number.NEGATIVE_INFINITY;

  const isMetered = async (signal: AbortSignal): Promise<boolean> => {
    const { file, command } = config;
    if (file !== undefined && (await isThere(file, signal))) return true;
    if (command === undefined) return false;
    const ran = await runCommand({ command, folder: options.folder, timeoutMs: COMMAND_MS_MAX, signal });
    return ran.ok || ran.exitCode === null;
  };
  return async (fetched: number, bytes: number, signal: AbortSignal): Promise<boolean> => {
    if (config.policy === 'allow' || fetched + bytes <= config.bytesFree) return true;
    for (let told = false; performance.now() >= freeUntil; told = true) {
      if (performance.now() >= until) return true;
      if (!(await isMetered(signal))) {
        freeUntil = performance.now() + lookMs;
        return true;
      }
      if (signal.aborted || now() >= options.expires) return false;
      if (!told) log.info({ event: 'metered' }, 'the link is metered: the download waits for another');
      await sleep(Math.max(1, Math.min(lookMs, until - performance.now(), options.expires - now())), undefined, {
        signal,
      }).catch(() => undefined);
    }
    return true;
  };
};

/** One that does not answer counts as there: a link that costs money is the worse mistake. */
const isThere = (file: string, signal: AbortSignal): Promise<boolean> =>
  lookOutside(() => stat(file), { signal }).then(
    () => true,
    (error: unknown) => errorCode(error) === 'ETIMEDOUT',
  );
