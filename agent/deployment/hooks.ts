/**
 * Runs a manifest's hooks. After a crash a hook may run again: it must be able to. One that always ends the agent runs
 * a few times only.
 */
import type { HealthCheck, HookMoment, Manifest } from '#shared/manifest.ts';
import { runCommand } from '../application/command.ts';
import { begunHook, endedHook, HOOK_RUNS_MAX, type HookRuns, mayRunHook } from '../domain/hook-runs.ts';

/** EX_TEMPFAIL of sysexits.h: the hook asks to be run again later. */
const EXIT_LATER = 75;

const TOO_OFTEN = `the agent ended each of the ${HOOK_RUNS_MAX} times that it ran, so it is not run again`;

/** What is remembered of a deployment's hooks, durably when it resolves. `hook` is an index in the manifest. */
type HookCounts = {
  known(): HookRuns;
  /** False when it must not be run after all, since the agent stops. */
  keep(change: (known: HookRuns) => HookRuns): Promise<boolean>;
};

export type HookOptions = {
  when: HookMoment;
  manifest: Pick<Manifest, 'hooks'>;
  /** The working directory. */
  folder: string;
  /** Besides `SLUICE_HOOK`. */
  environment: Record<string, string>;
  port: number | undefined;
  counts: HookCounts;
  /** Until when a hook may say "later"; past it that is a failure. */
  deferUntil: number;
  pause(attempt: number, signal: AbortSignal): Promise<unknown>;
  now: () => number;
  signal: AbortSignal;
};

/** In the manifest's order, up to the first that fails. */
export const runHooks = async (options: HookOptions): Promise<{ ok: true } | { ok: false; message: string }> => {
  const { when, manifest, signal, counts } = options;
  for (const [index, hook] of manifest.hooks.entries()) {
    if (hook.when !== when) continue;
    for (let attempt = 0; ; attempt += 1) {
      const may = mayRunHook(counts.known(), index);
      if (may === 'skip') break;
      if (may === 'refuse') return { ok: false, message: `the hook ${when}: ${TOO_OFTEN}` };
      if (!(await counts.keep((known) => begunHook(known, index)))) return { ok: false, message: 'stopped' };
      const result = await runCommand({
        command: hook.command,
        folder: options.folder,
        environment: { ...options.environment, SLUICE_HOOK: when },
        ...(options.port === undefined ? {} : { port: options.port }),
        timeoutMs: hook.timeoutMs,
        signal,
      });
      const later = !result.ok && result.exitCode === EXIT_LATER;
      if (result.ok || later) await counts.keep((known) => endedHook(known, index, later ? 'later' : 'good'));
      if (result.ok) break;
      const isHeard = later && options.now() < options.deferUntil && !signal.aborted;
      if (!isHeard) return { ok: false, message: `the hook ${when}: ${result.message}: ${result.output.trim()}` };
      await options.pause(attempt, signal);
    }
  }
  return { ok: true };
};

/** Hooks of the kind `health`, as the checks that they are: "later" is a check that does not pass yet. */
export const healthHooks = (manifest: Pick<Manifest, 'hooks'>): HealthCheck[] =>
  manifest.hooks
    .filter(({ when }) => when === 'health')
    .map(({ command, timeoutMs }, index) => ({
      kind: 'command',
      name: `hook health ${index + 1}`,
      command,
      timeoutMs,
    }));
