/** Runs a manifest's hooks. After a crash a hook may run again: it must be able to. */
import type { HealthCheck, HookMoment, Manifest } from '#shared/manifest.ts';
import { runCommand } from './command.ts';

/** EX_TEMPFAIL of sysexits.h: the hook asks to be run again later. */
const EXIT_LATER = 75;

export type HookOptions = {
  when: HookMoment;
  manifest: Pick<Manifest, 'hooks'>;
  /** The working directory. */
  folder: string;
  /** Besides `SLUICE_HOOK`. */
  environment: Record<string, string>;
  port: number | undefined;
  /** Until when a hook may say "later"; past it that is a failure. */
  deferUntil: number;
  pause(attempt: number, signal: AbortSignal): Promise<unknown>;
  now: () => number;
  signal: AbortSignal;
};

/** In the manifest's order, up to the first that fails. */
export const runHooks = async (options: HookOptions): Promise<{ ok: true } | { ok: false; message: string }> => {
  const { when, manifest, signal } = options;
  for (const hook of manifest.hooks.filter((hook) => hook.when === when)) {
    for (let attempt = 0; ; attempt += 1) {
      const result = await runCommand({
        command: hook.command,
        folder: options.folder,
        environment: { ...options.environment, SLUICE_HOOK: when },
        ...(options.port === undefined ? {} : { port: options.port }),
        timeoutMs: hook.timeoutMs,
        signal,
      });
      if (result.ok) break;
      const later = result.exitCode === EXIT_LATER && options.now() < options.deferUntil && !signal.aborted;
      if (!later) return { ok: false, message: `the hook ${when}: ${result.message}: ${result.output.trim()}` };
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
