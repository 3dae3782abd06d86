/**
 * Goes on checking a version once it is committed, slowly, so that what goes wrong later is seen: heartbeats say
 * "unhealthy", and the reported attribute `unhealthy` says why. Its checks are kept beside the slots when it commits;
 * another version's, or lost ones, count for nothing, and those of the device's configuration remain.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { Sha256 } from '#shared/ids.ts';
import { HealthCheck, Manifest } from '#shared/manifest.ts';
import type { ApplicationFiles } from '../application/application-files.ts';
import { performCheck } from '../application/checks.ts';
import { checkEnvironment } from '../application/hook-environment.ts';
import type { AgentConfig } from '../config/config.ts';
import { healthHooks } from '../deployment/hooks.ts';
import { readable, runningNow } from '../deployment/perform-parts.ts';
import { type FileAges, openFileAges } from '../disk/file-ages.ts';
import { checkName } from '../domain/health.ts';
import type { InstallState } from '../domain/install-state.ts';
import type { Slots } from '../domain/slots.ts';
import type { Log } from '../log.ts';

const Committed = z.object({
  v: z.literal(1),
  manifest: Sha256,
  run: Manifest.shape.run.unwrap().nullable(),
  checks: z.array(HealthCheck).max(32),
});

export type SteadyHealth = {
  /** What fails, in a sentence; null when nothing does, as far as it is known. */
  illness(): string | null;
  stop(): Promise<void>;
};

/** A single failure may be chance: it counts when it fails again soon. */
const FAILURES_MIN = 2;
const LOOK_AGAIN_MS_MAX = 5_000;
const SENTENCE_CHARS_MAX = 250;
const fileIn = (dir: string): string => join(dir, 'health.json');

/** At a commit: from now on these are what the version is held to. */
export const keepChecks = (dir: string, manifest: Manifest, manifestSha256: Sha256): Promise<void> => {
  const checks = [...manifest.health.checks, ...healthHooks(manifest)];
  const kept = { v: 1, manifest: manifestSha256, run: manifest.run ?? null, checks };
  return writeFileDurably(fileIn(dir), JSON.stringify(kept));
};

export const watchSteadyHealth = (options: {
  dir: string;
  config: Pick<AgentConfig, 'health' | 'application'>;
  slots: Slots;
  files: ApplicationFiles;
  install: () => InstallState;
  /** It fell ill, or is well again. */
  onChange(illness: string | null): void;
  log: Log;
}): SteadyHealth => {
  const { config, log } = options;
  const stopping = new AbortController();
  const ages = openFileAges('believe');
  let illness: string | null = null;
  let failures = 0;

  const look = async (): Promise<void> => {
    const failing = ON_THE_WAY.has(options.install().state) ? null : await firstFailing(options, ages, stopping.signal);
    if (stopping.signal.aborted) return;
    failures = failing === null ? 0 : failures + 1;
    const now = failing !== null && failures >= FAILURES_MIN ? failing : null;
    // What changes while it is ill is told with the next report.
    const changed = (now === null) !== (illness === null);
    illness = now;
    if (!changed) return;
    if (now === null) log.info({ event: 'healthy-again' }, 'every check passes again');
    else log.warn({ event: 'unhealthy' }, `unhealthy: ${now}`);
    options.onChange(now);
  };

  const looking = (async () => {
    while (!stopping.signal.aborted) {
      const { intervalMs } = config.health;
      const waitMs = failures === 0 ? intervalMs : Math.min(intervalMs, LOOK_AGAIN_MS_MAX);
      await sleep(waitMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      if (stopping.signal.aborted) return;
      await look().catch((error: unknown) =>
        log.error({ event: 'health-not-checked', err: error }, 'the health of what runs could not be checked'),
      );
    }
  })();

  return {
    illness: () => illness,
    stop: async () => {
      stopping.abort();
      await looking;
    },
  };
};

/** Then the trial's own checks decide, or something boots. */
const ON_THE_WAY = new Set<InstallState['state']>([
  'activating',
  'trial',
  'committing',
  'reverting',
  'verifying-revert',
]);

const firstFailing = async (
  { dir, config, slots, files }: Parameters<typeof watchSteadyHealth>[0],
  ages: FileAges,
  signal: AbortSignal,
): Promise<string | null> => {
  const running = await runningNow(slots);
  if (running === null) return null;
  const kept = await readKept(dir);
  const mine = kept?.manifest === running.manifest ? kept : undefined;
  const checks = [...(mine?.checks ?? []), ...config.health.checks];
  if (checks.length === 0) return null;
  const place = {
    ...(config.application.port === undefined ? {} : { port: config.application.port }),
    folder: slots.workFolder(running.slot),
    dataDir: files.dataDir,
    environment: await checkEnvironment(running, mine?.run, running.slot, files),
    process: slots.process,
    ages,
  };
  const results = await Promise.all(checks.map((check) => performCheck(check, place, signal)));
  const index = results.findIndex(({ ok }) => !ok);
  const failed = results[index];
  if (failed === undefined) return null;
  const sentence = `${checkName(checks, index)} fails: ${await files.withoutSecrets(failed.message)}`;
  return readable(sentence).slice(0, SENTENCE_CHARS_MAX);
};

const readKept = async (dir: string): Promise<z.infer<typeof Committed> | undefined> => {
  const bytes = await readFileIfThere(fileIn(dir));
  try {
    return bytes === undefined ? undefined : Committed.safeParse(JSON.parse(bytes.toString('utf8'))).data;
  } catch {
    return undefined;
  }
};
