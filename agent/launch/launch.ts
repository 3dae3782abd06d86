/**
 * Which agent to run (docs/decisions/0010): a release may carry the agent's own file, and a device that runs the
 * release runs that agent. The installed agent decides it at every start, before anything else, as a boot loader would;
 * it is never updated this way itself.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import { machineBootId } from '#shared/machine-uptime.ts';
import { Manifest } from '#shared/manifest.ts';
import { commandOf } from '../application/agent-file.ts';
import type { SlotName } from '../domain/slots.ts';
import { startChild } from '../process/start-child.ts';
import { openBootSelector } from '../slots/boot-selector.ts';
import { seal, unseal } from '../slots/sealed.ts';
import { readSlotRecord, slotFolder } from '../slots/slot-record.ts';

/**
 * How often the agent of a version on trial may be started, and how often in a row one that was committed and has not
 * proven itself since.
 */
const TRIAL_STARTS_MAX = 3;
const STARTS_MAX = 5;
/** Over several boots of the machine: one that is switched on for a few minutes at a time is no crash. */
const STARTS_OVER_BOOTS_MAX = 20;
const GRACE_MS = { min: 2_000, max: 60_000 };
const DEADLINE_MS = 600_000;

const Launches = z.object({
  format: z.literal(1),
  trial: z.object({ deployment: Id, starts: z.number().int().min(0) }).nullable(),
  /** Since it last proved itself: in this boot of the machine, and in all. */
  committed: z
    .object({
      manifest: Sha256,
      starts: z.number().int().min(0),
      boot: z.string().max(128).optional(),
      all: z.number().int().min(0).optional(),
    })
    .nullable(),
});
type Launches = z.infer<typeof Launches>;

export type Choice = {
  file: string;
  /** The trial whose agent this is. */
  trial: Id | null;
  /** The trial whose agent did not come up: it must end badly. */
  fellBack: Id | null;
  /** The committed version that brought an agent which does not come up: it runs with the installed one. */
  gaveWay: Sha256 | null;
};

/** What the launcher tells the agent that it starts. */
export const LAUNCH_ENVIRONMENT = {
  builtIn: 'SLUICE_AGENT_BUILT_IN',
  fellBack: 'SLUICE_AGENT_FELL_BACK',
  gaveWay: 'SLUICE_AGENT_GAVE_WAY',
} as const;
export const launchEnvironment = (
  builtIn: string,
  { fellBack, gaveWay }: Pick<Choice, 'fellBack' | 'gaveWay'>,
): Record<string, string> => ({
  [LAUNCH_ENVIRONMENT.builtIn]: builtIn,
  ...(fellBack === null ? {} : { [LAUNCH_ENVIRONMENT.fellBack]: fellBack }),
  ...(gaveWay === null ? {} : { [LAUNCH_ENVIRONMENT.gaveWay]: gaveWay }),
});

const launchesFile = (dataDir: string): string => join(dataDir, 'launches.json');
/** There as long as the agent of a version on trial has not proven itself. */
const trialFile = (dataDir: string): string => join(dataDir, 'agent-trial');
const expiredFile = (dataDir: string): string => `${trialFile(dataDir)}.expired`;

/** The agent of a slot: its own, or the installed one. Undefined when the slot cannot boot. */
export const agentOf = async (dataDir: string, slot: SlotName, builtIn: string): Promise<string | undefined> => {
  const dir = join(dataDir, 'slots');
  const record = await readSlotRecord(dir, slot);
  if (record?.state !== 'bootable') return undefined;
  return record.agent === undefined ? builtIn : join(slotFolder(dir, slot), record.agent.path);
};

/** Counts the start durably before it is made. Whatever is damaged, there is an answer: the installed agent. */
export const chooseAgent = async (dataDir: string, builtIn: string): Promise<Choice> => {
  try {
    return await choose(dataDir, builtIn);
  } catch {
    return { file: builtIn, trial: null, fellBack: null, gaveWay: null };
  }
};

const choose = async (dataDir: string, builtIn: string): Promise<Choice> => {
  const dir = join(dataDir, 'slots');
  const selected = await openBootSelector(dir).read();
  if (selected.state !== 'read') return { file: builtIn, trial: null, fellBack: null, gaveWay: null };
  const { active, trial } = selected.selection;
  const launches = await readLaunches(dataDir);
  let fellBack: Id | null = null;
  if (trial !== null && trial.triesLeft > 0) {
    const file = await agentOf(dataDir, trial.slot, builtIn);
    const deployment = Id.parse(trial.deployment);
    const starts = launches.trial?.deployment === deployment ? launches.trial.starts : 0;
    const isUsedUp = starts >= TRIAL_STARTS_MAX || (await hasExpired(dataDir, deployment));
    const next = { ...launches, trial: { deployment, starts: starts + 1 } };
    // A start that cannot be counted, or not be ended from outside, is not made: a full disk must not let a bad agent
    // start forever.
    if (
      file !== undefined &&
      !isUsedUp &&
      (await canStart(file)) &&
      (await keep(dataDir, next)) &&
      (await guardTrial(dataDir, deployment))
    )
      return { file, trial: deployment, fellBack: null, gaveWay: null };
    if (file !== undefined) fellBack = deployment;
  }
  const record = active === null ? undefined : await readSlotRecord(dir, active);
  const file = active === null ? undefined : await agentOf(dataDir, active, builtIn);
  if (record === undefined || file === undefined || file === builtIn)
    return { file: builtIn, trial: null, fellBack, gaveWay: null };
  const { manifest } = record.running;
  const counted = countStart(launches.committed, manifest, await machineBootId());
  // Where it cannot be counted it is started all the same: it ran before, and it is what the state on this disk was
  // written by.
  await keep(dataDir, { ...launches, committed: counted });
  const isGivenUp = counted.starts > STARTS_MAX || counted.all > STARTS_OVER_BOOTS_MAX;
  if (!isGivenUp && (await canStart(file))) return { file, trial: null, fellBack, gaveWay: null };
  return { file: builtIn, trial: null, fellBack, gaveWay: manifest };
};

const countStart = (known: Launches['committed'], manifest: Sha256, boot: string) => {
  const before = known?.manifest === manifest ? known : undefined;
  const isSameBoot = before !== undefined && (before.boot === undefined || before.boot === boot);
  return {
    manifest,
    boot,
    starts: (isSameBoot ? before.starts : 0) + 1,
    all: (before?.all ?? before?.starts ?? 0) + 1,
  };
};

const canStart = async (file: string): Promise<boolean> => (await commandOf(file)).ok;

const readLaunches = async (dataDir: string): Promise<Launches> => {
  // What cannot be read can hardly be written: then no start is counted, and none of a trial made.
  const bytes = await readFileIfThere(launchesFile(dataDir)).catch(() => undefined);
  return (bytes === undefined ? undefined : unseal(bytes, Launches)) ?? { format: 1, trial: null, committed: null };
};

const keep = (dataDir: string, launches: Launches): Promise<boolean> =>
  writeFileDurably(launchesFile(dataDir), seal(launches)).then(
    () => true,
    () => false,
  );

/**
 * A committed agent has proven itself, or was told to end: it may be started as often as need be. On a disk that cannot
 * be written it stays counted.
 */
export const forgetStarts = async (dataDir: string): Promise<void> => {
  const launches = await readLaunches(dataDir);
  if (launches.committed !== null) await keep(dataDir, { ...launches, committed: null });
};

const hasExpired = async (dataDir: string, deployment: Id): Promise<boolean> =>
  (await readFileIfThere(expiredFile(dataDir)))?.toString('utf8').startsWith(`${deployment} `) === true;

/**
 * Kills this process, which is about to become the agent on trial, when the trial has not ended by its deadline:
 * whatever that agent does, something outside of it ends it. Once a second it looks whether it is still meant.
 */
const GUARD =
  'left=$1; while [ "$left" -gt 0 ]; do sleep 1; [ "$(cat "$2" 2>/dev/null)" = "$3" ] || exit 0; left=$((left - 1)); done; mv "$2" "$4"; kill -KILL "$5"';

const guardTrial = async (dataDir: string, deployment: Id): Promise<boolean> => {
  const deadlineMs = await deadlineOf(dataDir);
  const graceMs = Math.min(GRACE_MS.max, Math.max(GRACE_MS.min, deadlineMs / 2));
  const seconds = Math.ceil((deadlineMs + graceMs) / 1_000);
  const mark = `${deployment} ${randomBytes(8).toString('hex')}`;
  try {
    await writeFileDurably(trialFile(dataDir), mark, 0o600);
  } catch {
    return false;
  }
  const words = [String(seconds), trialFile(dataDir), mark, expiredFile(dataDir), String(process.pid)];
  // Without a guard its starts are still counted, and the unit has a watchdog.
  const guard = startChild('/bin/sh', ['-c', GUARD, 'sluice-agent-guard', ...words], {
    detached: true,
    stdio: 'ignore',
  });
  if (guard.ok) guard.child.unref();
  return true;
};

/** That of the release on trial, whose manifest was kept. */
const deadlineOf = async (dataDir: string): Promise<number> => {
  const bytes = await readFileIfThere(join(dataDir, 'manifest.json')).catch(() => undefined);
  try {
    return Manifest.parse(JSON.parse(bytes?.toString('utf8') ?? '')).health.deadlineMs;
  } catch {
    return DEADLINE_MS;
  }
};
