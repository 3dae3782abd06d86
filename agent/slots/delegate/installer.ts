/**
 * One installer, asked one thing at a time: it may have a serial line, or a bus, that no one else can use meanwhile.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DelegateConfig } from '#agent/config/delegate-config.ts';
import type { Log } from '#agent/log.ts';
import { oneAtATime } from '#shared/in-turn.ts';
import { endInstallers, type InstallerEnd, runInstaller } from './run-installer.ts';

const LATER_MS_MAX = 60_000;
const SHOWN_PERCENT = 10;

export type InstallerOptions = {
  config: Pick<DelegateConfig, 'command' | 'environment' | 'installMs' | 'verbMs' | 'laterMs' | 'laterFirstMs'>;
  /** The pair's own folder, where it runs. An absolute path. */
  dir: string;
  log: Log;
  /** How much of the artifact that is being installed is in its slot, by the installer's answer. */
  onInstalled?: ((bytesDone: number, bytesTotal: number) => void) | undefined;
};

export type Ask = {
  words: string[];
  /** Of this deployment, for the installer. */
  environment?: Record<string, string> | undefined;
  /** An install may take longer. An inspection changes nothing. */
  kind: 'inspect' | 'install' | 'change';
  /** Of the artifact that is installed. */
  bytes?: number | undefined;
  signal?: AbortSignal | undefined;
};

export type Installer = {
  /** Goes on as long as `isLater`, up to the limit; what it last said comes out. Never rejects. */
  ask(ask: Ask, isLater: (end: InstallerEnd) => boolean): Promise<InstallerEnd>;
  /** Something is being changed now, or waits for its turn. */
  isChanging(): boolean;
};

/** Ends first what an agent that was killed has left running. */
export const openInstaller = async ({ config, dir, log, onInstalled }: InstallerOptions): Promise<Installer> => {
  await endInstallers(dir);
  const inTurn = oneAtATime();
  let changing = 0;

  const once = (ask: Ask): Promise<InstallerEnd> => {
    let shown = 0;
    return runInstaller({
      command: config.command,
      words: ask.words,
      dir,
      environment: { ...config.environment, ...ask.environment },
      timeoutMs: ask.kind === 'install' ? config.installMs : config.verbMs,
      signal: ask.signal,
      onProgress: (percent) => {
        if (ask.bytes !== undefined) onInstalled?.(Math.round((ask.bytes * percent) / 100), ask.bytes);
        if (percent < shown + SHOWN_PERCENT && percent !== 100) return;
        shown = percent;
        log.info({ event: 'installer-progress', percent }, `the installer is at ${percent}%`);
      },
    });
  };

  const insist = async (ask: Ask, isLater: (end: InstallerEnd) => boolean): Promise<InstallerEnd> => {
    const until = performance.now() + config.laterMs;
    for (let wait = config.laterFirstMs; ; wait = Math.min(2 * wait, LATER_MS_MAX)) {
      const end = await once(ask);
      if (!isLater(end) || ask.signal?.aborted === true || performance.now() + wait > until) return end;
      log.info({ event: 'installer-later' }, `the installer asks to be asked again: ${end.said.slice(-200)}`);
      await sleep(wait, undefined, { signal: ask.signal }).catch(() => undefined);
    }
  };

  return {
    ask: (ask, isLater) => {
      const weight = ask.kind === 'inspect' ? 0 : 1;
      changing += weight;
      return inTurn(() => insist(ask, isLater)).finally(() => {
        changing -= weight;
      });
    },
    isChanging: () => changing > 0,
  };
};
