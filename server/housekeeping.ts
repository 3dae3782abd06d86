/**
 * What has to be done now and then, no matter who is or is not looking. Each task is idempotent, so missing or
 * repeating one is harmless.
 */
import { CronJob } from 'cron';
import type { Id } from '#shared/ids.ts';
import type { Uptime } from '#shared/machine-uptime.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { keepCheckpoint } from './flow/audit/keep-checkpoint.ts';
import { trimLogs } from './flow/device/keep-logs.ts';
import type { Uploads } from './flow/release/accept-upload.ts';
import { collectGarbage } from './flow/release/collect-garbage.ts';
import type { Packs } from './flow/release/packs.ts';
import { noteAlive } from './flow/rollout/grant-grace.ts';
import type { Objects } from './store/objects.ts';
import type { Store } from './store/store.ts';
import type { Repository } from './trust/repository.ts';

export type HousekeepingDeps = {
  store: Pick<
    Store,
    | 'listReferencedObjects'
    | 'sweepChunks'
    | 'listRollouts'
    | 'countDeployments'
    | 'recountDeployments'
    | 'getAuditHead'
    | 'setMeta'
    | 'trimDeviceLogs'
    | 'pruneDecisions'
  >;
  repository: Pick<Repository, 'refresh'>;
  objects: Pick<Objects, 'sweep'>;
  uploads: Pick<Uploads, 'expire'>;
  packs: Pick<Packs, 'wake'>;
  /** The audit log's key. */
  log: Signer;
  now: () => number;
  uptime?: () => Promise<Uptime>;
  /** Of rollouts that are over; 0: forever. */
  decisionsKeptDays: number;
  /** For the log and metrics. */
  report: {
    done(task: Task, result: number): void;
    failed(task: Task, error: unknown): void;
    /** The counters kept in the transactions are not what the rows say: a bug, to be told loudly. */
    miscounted(rollout: Id): void;
  };
};

/**
 * Minute, hour, day of the month, month, day of the week; UTC. Odd minutes, so that not all fleets of the world do it
 * at once.
 */
const SCHEDULE = {
  'note-alive': '* * * * *',
  'expire-uploads': '*/5 * * * *',
  'refresh-metadata': '7 * * * *',
  'sign-checkpoint': '17 * * * *',
  'recount-deployments': '*/10 * * * *',
  'sweep-objects': '23 3 * * *',
  'make-packs': '37 * * * *',
  'trim-logs': '53 * * * *',
  'prune-decisions': '11 * * * *',
} as const;
export type Task = keyof typeof SCHEDULE;
const TASKS: readonly Task[] = [
  'note-alive',
  'expire-uploads',
  'refresh-metadata',
  'sign-checkpoint',
  'recount-deployments',
  'sweep-objects',
  'make-packs',
  'trim-logs',
  'prune-decisions',
];

/** Only rollouts that can still change are worth recounting often. */
const RECOUNTED_MAX = 20;
const DAY_MS = 86_400_000;
/** Rollouts at once, in one transaction; those that are left wait an hour. */
const PRUNED_MAX = 50;

/** What each task does; the number says how much there was to do. */
const PERFORM: Record<Task, (deps: HousekeepingDeps) => Promise<number>> = {
  'note-alive': async (deps) => {
    await noteAlive(deps);
    return 1;
  },
  'trim-logs': (deps) => trimLogs(deps),
  'prune-decisions': (deps) => pruneDecisions(deps),
  'expire-uploads': (deps) => deps.uploads.expire(),
  // Devices refuse a stale timestamp: that protects them from a mirror that hides new releases (TUF 5.4.4, freeze
  // attack).
  'refresh-metadata': async (deps) => {
    await deps.repository.refresh();
    return 1;
  },
  'sign-checkpoint': async (deps) => {
    await keepCheckpoint(deps);
    return 1;
  },
  'recount-deployments': (deps) => recountDeployments(deps),
  'sweep-objects': collectGarbage,
  'make-packs': async (deps) => {
    deps.packs.wake();
    return 1;
  },
};

export const performTask = async (deps: HousekeepingDeps, task: Task): Promise<void> => {
  try {
    deps.report.done(task, await PERFORM[task](deps));
  } catch (error) {
    deps.report.failed(task, error);
  }
};

/** How many rollouts were miscounted. */
const recountDeployments = async (deps: HousekeepingDeps): Promise<number> => {
  let wrong = 0;
  for (const { plan } of await deps.store.listRollouts({ limit: RECOUNTED_MAX })) {
    const before = await deps.store.countDeployments(plan.id);
    const rows = await deps.store.recountDeployments(plan.id);
    const after = await deps.store.countDeployments(plan.id);
    // Something moved in between: the next round will tell.
    if (fingerprint(before) !== fingerprint(after)) continue;
    if (fingerprint(rows) === fingerprint(after)) continue;
    wrong += 1;
    deps.report.miscounted(plan.id);
  }
  return wrong;
};

/** How many decisions went. */
const pruneDecisions = async ({ store, now, decisionsKeptDays }: HousekeepingDeps): Promise<number> =>
  decisionsKeptDays === 0 ? 0 : store.pruneDecisions(now() - decisionsKeptDays * DAY_MS, now(), PRUNED_MAX);

type Counts = Awaited<ReturnType<Store['countDeployments']>>;
const fingerprint = (counts: Counts): string =>
  counts
    .filter(({ devices }) => devices !== 0)
    .map((row) => `${row.wave}/${row.state}/${row.overdue ?? ''}/${row.reached ?? ''}=${row.devices}`)
    .sort()
    .join();

export type Housekeeping = { stop(): Promise<void> };

/** Does everything once now, and then each task at its times. */
export const startHousekeeping = (deps: HousekeepingDeps): Housekeeping => {
  let stopped = false;
  const atStart = (async () => {
    for (const task of TASKS) if (!stopped) await performTask(deps, task);
  })();
  const jobs = TASKS.map((task) =>
    CronJob.from({
      cronTime: SCHEDULE[task],
      timeZone: 'UTC',
      waitForCompletion: true,
      unrefTimeout: true,
      start: true,
      onTick: () => performTask(deps, task),
    }),
  );
  return {
    stop: async () => {
      stopped = true;
      for (const job of jobs) await job.stop();
      await atStart;
    },
  };
};
