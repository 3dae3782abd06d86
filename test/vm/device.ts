/**
 * One device under test: the machine with its drive, whose power is cut as planned and by a watchdog, with what
 * happened to it.
 */
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { randomOf } from '#test/simulation/random.ts';
import { CUT_SIGNS, openCutPlan } from './cuts.ts';
import { FATES, openDrive } from './drive.ts';
import { slotDigest } from './images.ts';
import { type Machine, openMachine } from './machine.ts';
import { type BootSeen, openWitness, type Witness } from './witness.ts';

/** A machine that shows no sign of life for so long is reset, as a hardware watchdog does. */
const SILENT_MS_MAX = 300_000;
/** A system that boots and is not cut must be heard by the server within. */
const REPORT_MS_MAX = 900_000;
const HANG_MS = 2_000;
/**
 * Of one rollout: mostly few enough for a good release to be committed in the end, sometimes enough to use up its
 * tries.
 */
const TRIAL_CUTS_MAX = [1, 2, 2, 9] as const;
/** Power that goes in one of them uses up a try. */
const TRIAL_STATES = new Set(['activating', 'trial', 'committing']);

export type DeviceUnderTest = {
  machine: Machine;
  witness: Witness;
  counts: Counts;
  /** The newest boot, and the newest state that the agent told. */
  now: { boot: BootSeen | undefined; state: string; reported: boolean };
  /** Another rollout begins. */
  begin(): void;
  /** How often power went since it was activated. */
  trialCuts(): number;
  /** Cuts from now on, or none any more. */
  cutting(on: boolean): void;
  start(): void;
  stop(): Promise<void>;
};
export type Counts = {
  cuts: number;
  /** By the state (or `power-on`) in which it was cut. */
  cutIn: Map<string, number>;
  boots: number;
  reports: number;
  watchdog: number;
  /** Sectors, when power went. */
  unflushed: number;
  lost: number;
};

export const openDevice = async (options: {
  work: string;
  media: Buffer;
  toolsFile: string;
  seed: number;
  cutsMax: number;
  tell: (line: string) => void;
}): Promise<DeviceUnderTest> => {
  const { media, tell, work } = options;
  const fates = randomOf(options.seed, 'fates');
  const drive = openDrive(media);
  const witness = openWitness((slot) => slotDigest(media, slot));
  const counts: Counts = {
    cuts: 0,
    cutIn: new Map(),
    boots: 0,
    reports: 0,
    watchdog: 0,
    unflushed: 0,
    lost: 0,
  };
  const now: DeviceUnderTest['now'] = { boot: undefined, state: 'idle', reported: false };
  let isCutting = false;
  let trialCuts = 0;
  let trialCutsMax = 0;
  let stopped = false;
  let heardAt = performance.now();
  let bootedAt = performance.now();
  let bootsUnseen = 0;

  const consoleLog = (line: string): void => appendFileSync(join(work, 'console.log'), `${line}\n`);

  const powerOn = (): void => {
    if (stopped) return;
    now.reported = false;
    heardAt = performance.now();
    bootedAt = heardAt;
    machine.powerOn();
    if (isCutting) plan.poweredOn();
  };

  const powerOff = async (why: string): Promise<void> => {
    if (!machine.isOn()) return;
    if (TRIAL_STATES.has(now.state)) trialCuts += 1;
    const fate = fates.pick(FATES);
    const { unflushed, lost } = await machine.cutPower(fate, fates);
    counts.unflushed += unflushed;
    counts.lost += lost;
    const where = now.boot === undefined ? '' : ` slot ${now.boot.slot} ${now.boot.image.version}`;
    const line = `${why}:${where} in ${now.state}; ${unflushed} sectors in the cache, ${lost} lost (${fate})`;
    consoleLog(`--- ${line}`);
    witness.note(`--- ${line}`);
    tell(line);
    powerOn();
  };

  const plan = openCutPlan(randomOf(options.seed, 'cuts'), (why, owed) => {
    if (!isCutting || !machine.isOn() || counts.cuts >= options.cutsMax) return false;
    if (!owed && TRIAL_STATES.has(now.state) && trialCuts >= trialCutsMax) return false;
    counts.cuts += 1;
    const where = why.split(/[ ,]/)[0]!;
    counts.cutIn.set(where, (counts.cutIn.get(where) ?? 0) + 1);
    void powerOff(`cut ${counts.cuts} of ${options.cutsMax} (${why})`);
    return true;
  });

  const watchdog = (why: string): void => {
    counts.watchdog += 1;
    plan.disarm();
    void powerOff(`watchdog: ${why}`);
  };

  const onLine = (line: string): void => {
    heardAt = performance.now();
    consoleLog(line);
    if (isCutting) for (const [sign, shows] of Object.entries(CUT_SIGNS)) if (shows.test(line)) plan.passed(sign);
    const meaning = witness.line(line);
    if (meaning === undefined) return;
    switch (meaning.kind) {
      case 'booted':
        counts.boots += 1;
        // By a reboot of its own too.
        now.reported = false;
        bootedAt = heardAt;
        now.boot = { slot: meaning.slot, image: meaning.image };
        bootsUnseen = 0;
        tell(
          `  boots slot ${meaning.slot}, ${meaning.image.version} (${meaning.image.sha256.slice(0, 12)}, published)`,
        );
        if (meaning.image.fault === 'init-hangs') {
          const hung = counts.boots;
          setTimeout(() => machine.isOn() && counts.boots === hung && watchdog('init hangs'), HANG_MS).unref();
        }
        return;
      case 'connected':
        if (!now.reported) counts.reports += 1;
        now.reported = true;
        return;
      case 'entered':
        now.state = meaning.state;
        tell(`  ${meaning.state}${meaning.release === undefined ? '' : ` ${meaning.release}`}`);
        if (isCutting) plan.entered(meaning.state);
        return;
      default:
        meaning satisfies never;
    }
  };

  const machine = await openMachine({
    work,
    drive,
    toolsFile: options.toolsFile,
    events: {
      line: onLine,
      drive: (event) => isCutting && plan.drive(event),
      died: (why) => witness.accuse(why),
    },
  });

  const guard = setInterval(() => {
    if (!machine.isOn()) return;
    const at = performance.now();
    if (now.boot !== undefined && !now.reported && at - bootedAt > REPORT_MS_MAX)
      witness.accuse(`it is up for ${REPORT_MS_MAX / 1000} s and has not reported to the server`);
    if (at - heardAt <= SILENT_MS_MAX || now.reported) return;
    bootsUnseen += 1;
    if (bootsUnseen > 3) witness.accuse('it does not boot any more');
    watchdog(`nothing heard for ${SILENT_MS_MAX / 1000} s`);
  }, 1_000);

  return {
    machine,
    witness,
    counts,
    now,
    begin: () => {
      trialCuts = 0;
      trialCutsMax = fates.pick(TRIAL_CUTS_MAX);
      plan.begin();
    },
    trialCuts: () => trialCuts,
    cutting: (on) => {
      isCutting = on;
      if (!on) plan.disarm();
    },
    start: powerOn,
    stop: async () => {
      stopped = true;
      clearInterval(guard);
      plan.disarm();
      await machine.stop();
    },
  };
};
