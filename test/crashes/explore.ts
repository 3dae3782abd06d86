/**
 * Crashes an install at every point: it runs once, and each of its changes to the disk is a point. Then, from each, the device dies before that change, by
 * SIGKILL or by a power cut that leaves more or less of what was not flushed, and lives on until it settles. docs/faults.md says what must hold.
 */
import { dirname } from 'node:path';
import { readJournal } from '#agent/journal.ts';
import type { Slots } from '#agent/slots/slots.ts';
import { signDesired } from '#server/trust/director.ts';
import { Id } from '#shared/ids.ts';
import { randomOf } from '#test/simulation/random.ts';
import { signerOf } from '#test/simulation/signers.ts';
import { openTime, type Process, type Time } from '#test/simulation/time.ts';
import { DATA, type Device, type Kind, ROOT } from './devices.ts';
import { DEVICE, live } from './life.ts';
import { said } from './log.ts';
import { IDLE, type Mounted, mountVolume, type Step, type User } from './mount.ts';
import { readByPredecessor } from './predecessor.ts';
import { makeRelease } from './releases.ts';
import { openServer } from './server.ts';
import { LOSSES, type Loss } from './volume.ts';

/** `killed`: nothing is lost, and the device does not boot. Otherwise the power fails, with this loss. */
export const DEATHS = ['killed', ...LOSSES] as const;
export type Death = 'killed' | Loss;

/** What is installed, and how that must end: wherever the device dies. */
export const SCENARIOS = { good: 'committed', unhealthy: 'reverted', 'bad-disk': 'failed' } as const;
export type Scenario = keyof typeof SCENARIOS;

export type Exploration = {
  kind: Kind;
  scenario: Scenario;
  /** How it dies at this point; none: it does not. */
  deaths: (point: number) => readonly Death[];
  /** It dies once more, after so many changes of each new life that is not the last; 0: it does not. */
  again?: (point: number) => number;
  /** Ends after so many violations. */
  violationsMax?: number;
  /** A bug that is to be found. */
  plant?: { forgets?: (path: string) => boolean; wrap?: (slots: Slots) => Slots };
};

export type Found = { points: number; recoveries: number; lives: number; violations: string[] };

const START = Date.UTC(2026, 0);
const LIVES_MAX = 25;
const LIFE_MS_MAX = 2 * 3_600_000;

/** One at a time in a thread: it takes over the clock and the file system. */
export const explore = async (exploration: Exploration): Promise<Found> => {
  const time = openTime(START, randomOf(1, 'time'));
  const mounted = mountVolume(ROOT, ['power-cycle', 'fw_printenv', 'fw_setenv']);
  const temporary = process.env['TMPDIR'];
  process.env['TMPDIR'] = `${ROOT}/tmp`;
  try {
    mounted.volume.makeFolders(`${ROOT}/tmp`);
    mounted.volume.makeFolders(DATA);
    return await exploring(exploration, time, mounted);
  } finally {
    if (temporary === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = temporary;
    mounted.unmount();
    time.restore();
  }
};

type Saved = { step: string; put: () => void };

const exploring = async (
  { kind, scenario, deaths, again = () => 0, violationsMax = 10, plant = {} }: Exploration,
  realTime: Time,
  { volume, attach }: Mounted,
): Promise<Found> => {
  const first = await makeRelease(`${ROOT}/factory`, kind.kind, '1.0.0', true);
  const release = await makeRelease(`${ROOT}/factory`, kind.kind, '1.1.0', scenario !== 'unhealthy');
  const device: Device = await kind.make(volume, first);
  const quiet: User = { ...IDLE, runSync: device.runSync, run: (command) => device.run(command, () => false) };
  attach(quiet);
  await device.powerOn();
  volume.flushAll();
  const signer = signerOf(DEVICE);
  const times = { issuedAt: START, expires: START + 365 * 86_400_000 };
  const leaf = {
    type: 'sluice/desired/1' as const,
    device: DEVICE,
    seq: 1,
    ...times,
    instruction: release.instruction,
  };
  const [desired] = signDesired(signer, [leaf], times);

  // A device that is put back to an earlier moment is put back in time, too.
  let lateMs = 0;
  const time: Time = { ...realTime, now: () => realTime.now() - lateMs };
  const server = openServer(time, desired!, release);
  const found: Found = { points: 0, recoveries: 0, lives: 0, violations: [] };

  let alive: Process = { name: DEVICE, dead: true };
  let current: Awaited<ReturnType<typeof live>> | undefined;
  let rebootBy: string[] | undefined;
  let where = 'the beginning';
  let onStep: (step: Step) => boolean = () => false;
  /** What was changed since the boot selector was, in this life; undefined: it was not. */
  let sinceSelector: Step[] | undefined;
  const violate = (what: string): void => {
    if (found.violations.length < violationsMax)
      found.violations.push(`${where}: ${what}\n    ${said().slice(-6).join('\n    ')}`);
  };
  const step = (next: Step): boolean => {
    if (onStep(next)) alive.dead = true;
    else if (device.isSelector(next.path)) sinceSelector = [];
    // A flush changes nothing; and what a tool of the boot loader was told lies where nothing needs to last.
    else if (!next.call.includes('sync') && !next.path.includes('/sluice-fw-')) sinceSelector?.push(next);
    return alive.dead;
  };
  /** Nothing else is written between the activation and what it is for. */
  const activated = (what: string): void => {
    const [between] = sinceSelector ?? [];
    if (between !== undefined) violate(`between the activation and ${what}: ${between.call} ${between.path}`);
  };
  const user: User = {
    ...quiet,
    isDead: () => alive.dead,
    step,
    forgets: plant.forgets ?? (() => false),
    spoils: (path) => scenario === 'bad-disk' && /\/slots\/b\/|\/slot-b$/.test(path),
    run: (command) => {
      if (command[0] !== 'power-cycle')
        return device.run(command, (path) => step({ call: 'fw_setenv', path, durable: true }));
      if (current?.machine.memory().install.state === 'activating') activated('the reboot');
      rebootBy = command;
      alive.dead = true;
      return undefined;
    },
  };

  /** What is true of a device at every moment. */
  const look = async (): Promise<void> => {
    const put = volume.save();
    attach(quiet);
    const fault = await device.fault(release, first).catch((error: unknown) => String(error));
    if (fault !== undefined) violate(fault);
    put();
    const journal = volume.peek(`${DATA}/journal`);
    if (journal?.kind !== 'file') return;
    const read = readJournal(journal.bytes);
    const install = read.state === 'good' ? read.newest?.install : undefined;
    const ours =
      install === undefined ? undefined : 'slot' in install ? `${install.state} ${install.slot}` : install.state;
    const theirs = readByPredecessor(journal.bytes);
    if (read.state === 'damaged' || ours !== theirs)
      violate(
        `the journal says ${read.state === 'damaged' ? read.why : ours}, and to the agent before this one ${theirs}`,
      );
  };
  const isSettled = (): boolean =>
    current?.machine.memory().install.state === 'idle' &&
    server.receipts().length > 0 &&
    server.last()?.deployment === null;

  const liveOn = async (): Promise<void> => {
    const mine: Process = { name: DEVICE, dead: false };
    [alive, current, rebootBy, sinceSelector] = [mine, undefined, undefined, undefined];
    found.lives += 1;
    const boot = Id.parse(`boot-${found.lives}`);
    attach(user);
    const tick = (): void => void time.at(1_000, mine, tick);
    time.at(0, mine, tick);
    time.within(mine, () => {
      live({
        time,
        device,
        server,
        signer,
        release,
        boot,
        process: mine,
        onStart: ({ onExit }) => {
          if (onExit === 'report') activated('the application starts on trial');
        },
        wrap: (slots) => plant.wrap?.(slots) ?? slots,
      }).then(
        (life) => {
          if (!mine.dead) current = life;
        },
        (error: unknown) => {
          if (!mine.dead) violate(`the agent threw ${error instanceof Error ? error.stack : String(error)}`);
          mine.dead = true;
        },
      );
    });
    await realTime.runUntil(realTime.now() + LIFE_MS_MAX, () => mine.dead || isSettled());
  };

  /** From now until the device has nothing left to do. */
  const settle = async (dieAfter: number): Promise<void> => {
    for (let lives = 0; lives < LIVES_MAX; lives += 1) {
      let left = lives === 0 ? dieAfter : 0;
      const [onStepBefore] = [onStep];
      if (left > 0) onStep = () => (left -= 1) === 0;
      await liveOn();
      onStep = onStepBefore;
      if (isSettled() && !alive.dead) return end();
      if (!alive.dead) break;
      volume.cut('everything');
      if (lives === 0 && dieAfter > 0 && rebootBy === undefined) await look();
      attach(quiet);
      await device.powerOn(rebootBy);
    }
    violate(`it does not settle: ${JSON.stringify(current?.machine.memory().install)?.slice(0, 300)}`);
    alive.dead = true;
  };
  const end = async (): Promise<void> => {
    const running = await current?.slots.running();
    alive.dead = true;
    const receipts = server
      .receipts()
      .map(({ deployment, outcome, error }) =>
        `${deployment} ${outcome} ${error?.code ?? ''} ${error?.message ?? ''}`.trim(),
      );
    const [only, ...more] = receipts;
    const expected = `${release.instruction.deployment} ${SCENARIOS[scenario]}`;
    if (only?.startsWith(expected) !== true || more.length > 0)
      violate(`reported as ${receipts.join(' and ')}, not as ${expected} once`);
    const slot = SCENARIOS[scenario] === 'committed' ? 'b' : 'a';
    if (running?.slot !== slot || running.trial) violate(`${JSON.stringify(running)} runs at the end`);
    await look();
  };

  // Once to the end, and every moment of it is kept.
  const moments: Saved[] = [];
  const keep = (what: string): void => {
    const [putVolume, putServer, at] = [volume.save(), server.save(), time.now()];
    const put = (): void => {
      putVolume();
      putServer();
      lateMs = realTime.now() - at;
    };
    moments.push({ step: what, put });
  };
  onStep = ({ call, path }) => {
    keep(`${call} ${path.slice(dirname(ROOT).length)}`);
    return false;
  };
  where = 'without a crash';
  await settle(0);
  onStep = () => false;
  keep('the end');
  found.points = moments.length;

  for (const [point, moment] of moments.entries())
    for (const death of deaths(point)) {
      if (found.violations.length >= violationsMax) return found;
      moment.put();
      found.recoveries += 1;
      where = `${kind.name}, ${scenario}, point ${point} (before ${moment.step}), ${death}`;
      said();
      if (death !== 'killed') volume.cut(death);
      await look();
      attach(quiet);
      if (death !== 'killed') await device.powerOn();
      await settle(again(point));
    }
  return found;
};
