/**
 * Where power is cut: decided from a seed as the console and the drive tell what happens. What an emulator does when
 * differs from run to run.
 */
import type { Random } from '#test/simulation/random.ts';
import type { DriveEvent } from './nbd.ts';

/** Of the agent's states: those that it may be cut in, by its own log. */
export const CUT_STATES = [
  'accepted',
  'waiting',
  'fetching',
  'verified',
  'ready',
  'activating',
  'trial',
  'committing',
  'committed',
  'reverting',
  'verifying-revert',
  'reverted',
  'reported',
] as const;
type CutState = (typeof CUT_STATES)[number];
const isCutState = (state: string): state is CutState => CUT_STATES.some((known) => known === state);

/** Of the machine's way up: signs on the console. */
export const CUT_SIGNS = {
  GRUB: /GRUB /,
  booted: /^VM booted/,
  up: /^VM up/,
  'agent-started': /"agent-started"/,
  connected: /"connected"/,
};

/**
 * How exactly: as soon as the log says so, some time later, or as soon as so many writes or flushes have reached the
 * drive.
 */
type Trigger = { kind: 'after-ms'; ms: number } | { kind: 'after-drive'; event: DriveEvent['kind']; left: number };

export type CutPlan = {
  poweredOn(): void;
  entered(state: string): void;
  /** One of `CUT_SIGNS`. */
  passed(sign: string): void;
  drive(event: DriveEvent): void;
  /** No cut is pending any more. */
  disarm(): void;
  /** Another rollout: every state may be cut again. */
  begin(): void;
};

const STATE_CHANCE = 0.7;
const STATE_CUTS_MAX = 2;
const SIGN_CHANCE = 0.15;
const RANDOM_CHANCE = 0.5;
/** Often while GRUB or the kernel starts, sometimes later. */
const RANDOM_MS_MAX = [2_000, 10_000, 30_000] as const;
const AFTER_MS_MAX = 3_000;

/**
 * `cut` is called with what led to it; false: not now. It may be called only once until `poweredOn`. `owed`: power has
 * not gone in that state before. The first time that a state is seen, it is cut at once: so none is left out, however
 * short it is.
 */
export const openCutPlan = (random: Random, cut: (why: string, owed: boolean) => boolean): CutPlan => {
  const owed = new Set<CutState>(CUT_STATES);
  let cuts = new Map<string, number>();
  let timers: NodeJS.Timeout[] = [];
  let waiting: { why: string; event: DriveEvent['kind']; left: number } | undefined;

  const disarm = (): void => {
    for (const timer of timers) clearTimeout(timer);
    timers = [];
    waiting = undefined;
  };
  const fire = (why: string): void => {
    disarm();
    cut(why, false);
  };
  const arm = (trigger: Trigger, why: string): void => {
    if (trigger.kind === 'after-drive') {
      waiting = { why: `${why}, ${trigger.event} ${trigger.left}`, event: trigger.event, left: trigger.left };
    } else if (trigger.ms === 0) fire(why);
    else timers.push(setTimeout(() => fire(`${why} + ${trigger.ms} ms`), trigger.ms));
  };
  const drawTrigger = (): Trigger => {
    const kind = random.pick(['now', 'later', 'write', 'write', 'flush'] as const);
    if (kind === 'now') return { kind: 'after-ms', ms: 0 };
    if (kind === 'later') return { kind: 'after-ms', ms: random.between(1, AFTER_MS_MAX) };
    return { kind: 'after-drive', event: kind, left: random.between(1, kind === 'write' ? 12 : 6) };
  };

  return {
    poweredOn: () => {
      disarm();
      if (random.chance(RANDOM_CHANCE))
        arm({ kind: 'after-ms', ms: random.between(50, random.pick(RANDOM_MS_MAX)) }, 'power-on');
    },
    entered: (state) => {
      const before = cuts.get(state) ?? 0;
      if (!isCutState(state)) return;
      if (owed.has(state) && cut(state, true)) {
        disarm();
        owed.delete(state);
        cuts.set(state, before + 1);
        return;
      }
      if (before >= STATE_CUTS_MAX || !random.chance(STATE_CHANCE)) return;
      cuts.set(state, before + 1);
      arm(drawTrigger(), state);
    },
    passed: (sign) => {
      if (random.chance(SIGN_CHANCE)) arm(drawTrigger(), sign);
    },
    drive: ({ kind }) => {
      if (waiting === undefined || waiting.event !== kind) return;
      waiting.left -= 1;
      if (waiting.left <= 0) fire(waiting.why);
    },
    disarm,
    begin: () => {
      cuts = new Map();
    },
  };
};
