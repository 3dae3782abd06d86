/** What must hold of the device that is explored: at every moment, at each change, and in the end. */
import { readJournal } from '#agent/deployment/journal.ts';
import { DATA } from './device.ts';
import { said } from './log.ts';
import type { Step } from './mount.ts';
import { readByPredecessor } from './predecessor.ts';
import { SCENARIOS, type World } from './world.ts';

const VIOLATIONS_MAX = 10;

export const violate = ({ exploration, found, now }: World, what: string): void => {
  if (!isEnough(exploration, found))
    found.violations.push(`${now.where}: ${what}\n    ${said().slice(-6).join('\n    ')}`);
};
export const isEnough = (
  { violationsMax = VIOLATIONS_MAX }: World['exploration'],
  { violations }: World['found'],
): boolean => violations.length >= violationsMax;

export const noteStep = ({ device, now: { life } }: World, step: Step): void => {
  if (device.isSelector(step.path)) life.sinceSelector = [];
  // A flush changes nothing; and what a tool of the boot loader was told lies where nothing needs to last.
  else if (!step.call.includes('sync') && !step.path.includes('/sluice-fw-')) life.sinceSelector?.push(step);
};

/** Nothing else is written between the activation and what it is for. */
export const noteActivated = (world: World, what: string): void => {
  const [between] = world.now.life.sinceSelector ?? [];
  if (between !== undefined) violate(world, `between the activation and ${what}: ${between.call} ${between.path}`);
};

/** What is true of a device at every moment. */
export const look = async (world: World): Promise<void> => {
  const { volume, attach, quiet, device, release, first } = world;
  const put = volume.save();
  attach(quiet);
  const fault = await device.fault(release, first).catch((error: unknown) => String(error));
  if (fault !== undefined) violate(world, fault);
  put();
  const journal = volume.peek(`${DATA}/journal`);
  if (journal?.kind !== 'file') return;
  const read = readJournal(journal.bytes);
  const install = read.state === 'good' ? read.newest?.install : undefined;
  const ours =
    install === undefined ? undefined : 'slot' in install ? `${install.state} ${install.slot}` : install.state;
  const theirs = readByPredecessor(journal.bytes);
  if (read.state === 'damaged' || ours !== theirs) {
    const said = read.state === 'damaged' ? read.why : ours;
    violate(world, `the journal says ${said}, and to the agent before this one ${theirs}`);
  }
};

/** The deployment is over, and its only receipt says how. */
export const judgeEnd = async (world: World): Promise<void> => {
  const { exploration, server, release, now } = world;
  const running = await now.life.up?.slots.running();
  now.life.process.dead = true;
  const receipts = server.receipts();
  const told = receipts.map(({ deployment, outcome, error }) =>
    `${deployment} ${outcome} ${error?.code ?? ''} ${error?.message ?? ''}`.trim(),
  );
  const [only] = receipts;
  const expected = SCENARIOS[exploration.scenario];
  // A device whose disk refuses may give up, and is never the worse for it.
  const outcomes: string[] = [expected, ...(exploration.refuses === undefined ? [] : ['reverted', 'failed'])];
  const isExpected = only?.deployment === release.instruction.deployment && outcomes.includes(only.outcome);
  if (!isExpected || receipts.length > 1)
    violate(world, `reported as ${told.join(' and ')}, not as ${outcomes.join(' or ')} once`);
  const slot = only?.outcome === 'committed' ? 'b' : 'a';
  if (running?.slot !== slot || running.trial)
    violate(world, `${JSON.stringify(running)} runs at the end, after ${told.join(' and ')}`);
  await look(world);
};
