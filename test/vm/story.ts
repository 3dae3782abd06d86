/** What is rolled out, one release after the other, and what each must come to. */
import { setTimeout as pause } from 'node:timers/promises';
import type { DeviceUnderTest } from './device.ts';
import type { Fleet, Release } from './fleet.ts';
import type { Fault, SlotImage } from './images.ts';

/**
 * `standby` is the release that the standby slot still holds: nothing is fetched. `unhealthy` boots well, but its
 * health check never passes.
 */
type Chapter = 'good' | 'standby' | 'unhealthy' | Exclude<Fault, 'none'>;

const CHAPTERS: readonly Chapter[] = [
  ...(['good', 'kernel-corrupt', 'good', 'init-panics', 'unhealthy', 'good', 'standby'] as const),
  ...(['init-exits', 'good', 'init-hangs'] as const),
];
const POLL_MS = 500;
const ROLLOUT_MS_MAX = 90 * 60_000;
const CHECKS_MS_MAX = 15 * 60_000;

export type StoryOptions = {
  device: DeviceUnderTest;
  fleet: Fleet;
  make(version: string, fault: Fault): Promise<SlotImage>;
  say: (line: string) => void;
  cutsMax: number;
  /** By `performance.now()`: no rollout begins after. */
  deadlineAt: number;
  /** What the first slot holds at the start. */
  factory: SlotImage;
  triesMax: number;
  /** The chapters are dealt out to so many. */
  lane: number;
  lanes: number;
};

type Published = { image: SlotImage; release: Release };

/** Returns when all cuts are made and every chapter was told, or when something is wrong: the witness knows. */
export const tellStory = async (options: StoryOptions): Promise<void> => {
  const { device, fleet, say } = options;
  const { witness } = device;
  let active: Published | undefined;
  let standby: Published | undefined;

  device.start();
  await until(options, 'the device enrols', CHECKS_MS_MAX, async () => (await fleet.device())?.online === true);
  const [first, least] = [0, 1].map((next) =>
    Math.floor((CHAPTERS.length * (options.lane + next)) / options.lanes),
  ) as [number, number];
  for (let number = 0, isLast = false; witness.violation() === undefined && !isLast; number += 1) {
    isLast = device.counts.cuts >= options.cutsMax && first + number > least;
    if (performance.now() > options.deadlineAt) {
      witness.accuse(`only ${device.counts.cuts} of ${options.cutsMax} cuts were made in the time given`);
      break;
    }
    // The first and the last are let alone: after all this another release is still installed as if nothing had been.
    const isQuiet = number === 0 || isLast;
    const wanted = isQuiet ? 'good' : CHAPTERS[(first + number - 1) % CHAPTERS.length]!;
    const again = wanted === 'standby' && standby?.image.fault === 'none' ? standby : undefined;
    const chapter = wanted === 'standby' && again === undefined ? 'good' : wanted;
    const next = again ?? (await publish(options, chapter, `1.${number + 1}.0`));
    say(`${next.release} (${chapter}) is rolled out`);
    const outcome = await rollOut(options, next.release, !isQuiet);
    if (outcome === undefined) break;
    say(`${next.release} (${chapter}): ${outcome}`);
    judge(options, chapter, next.release, outcome);
    const committed = outcome === 'committed';
    const expected = committed ? next : active;
    await checkRest(options, expected?.image ?? options.factory);
    if (committed) [active, standby] = [next, active];
    // Its slot was written over.
    else standby = undefined;
  }
  if (witness.violation() !== undefined) return;
  const audit = await fleet.verifyAudit();
  if (!audit.ok) witness.accuse(`the audit log does not hold: line ${audit.line}: ${audit.why}`);
  else say(`the audit log holds: ${audit.entries} entries, ${audit.receipts} receipts signed by the device`);
};

const publish = async (options: StoryOptions, chapter: Chapter, version: string): Promise<Published> => {
  const fault = chapter === 'good' || chapter === 'unhealthy' || chapter === 'standby' ? 'none' : chapter;
  const image = await options.make(version, fault);
  options.device.witness.published(image);
  return { image, release: await options.fleet.publish(image, chapter !== 'unhealthy') };
};

/** Its outcome at the device, when the rollout has ended; undefined when something is wrong. */
const rollOut = async (options: StoryOptions, release: Release, cutting: boolean): Promise<string | undefined> => {
  const { device, fleet } = options;
  device.begin();
  device.cutting(cutting);
  const id = await fleet.rollOut(release);
  let outcome: string | undefined;
  const ended = async (): Promise<boolean> => {
    const { view, deployment } = await fleet.rollout(id);
    if (view.state === 'halted') await fleet.abort(id);
    outcome = deployment?.state;
    return view.state === 'completed' || view.state === 'aborted';
  };
  const isOver = await until(options, `${release} has ended`, ROLLOUT_MS_MAX, ended);
  device.cutting(false);
  return isOver ? outcome : undefined;
};

const judge = (options: StoryOptions, chapter: Chapter, release: Release, outcome: string): void => {
  const { device, triesMax } = options;
  const isGood = chapter === 'good' || chapter === 'standby';
  if (!isGood && outcome !== 'reverted') device.witness.accuse(`${release} (${chapter}) ended as ${outcome}`);
  if (!isGood || outcome === 'committed') return;
  // Power that goes in a trial uses up its tries: then the boot counter is right.
  if (outcome !== 'reverted' || device.trialCuts() < triesMax)
    device.witness.accuse(`${release} is good and ended as ${outcome}, after ${device.trialCuts()} cuts on trial`);
};

/** Between rollouts the device runs what it should, and says so. */
const checkRest = async (options: StoryOptions, expected: SlotImage): Promise<void> => {
  const { device, fleet } = options;
  let facts = '';
  const rests = async (): Promise<boolean> => {
    const seen = await fleet.device();
    if (seen === undefined) return false;
    const booted = device.now.boot?.image;
    facts = `booted ${booted?.version}, reports ${seen.running?.version}, ${seen.online ? '' : 'not '}online, ${device.now.state}`;
    const runs = booted?.sha256 === expected.sha256;
    // The factory's release was never rolled out: the agent does not know its name.
    const says = seen.running === null || seen.running.version === expected.version;
    return runs && says && seen.online && device.now.state === 'idle';
  };
  await until(options, `${expected.version} runs and is reported`, CHECKS_MS_MAX, rests, () => facts);
};

/** False when something else was found to be wrong meanwhile. */
const until = async (
  { device }: StoryOptions,
  what: string,
  millis: number,
  holds: () => Promise<boolean>,
  facts: () => string = () => '',
): Promise<boolean> => {
  for (const end = performance.now() + millis; device.witness.violation() === undefined; await pause(POLL_MS)) {
    if (await holds()) return true;
    if (performance.now() > end) device.witness.accuse(`never: ${what} ${facts()}`);
  }
  return false;
};
