/**
 * One tick of a running rollout that neither halts nor is told anything: gate, waves, offers, and what it waits for.
 */

import type { Millis } from '#shared/ids.ts';
import { type AuditEvent, BY_SERVER } from '../audit.ts';
import type { OutcomeBin } from '../deployment/deployment.ts';
import { waveName } from '../words.ts';
import { acknowledgedIn } from './acknowledge.ts';
import { type Gate, type Grant, gateOf, isMet, isUnheard } from './halting.ts';
import type { Hold, Rollout, RolloutState, StartWindow } from './rollout.ts';
import type { Offer, RolloutFacts, RolloutStep, WindowFacts } from './rollout-events.ts';
import { groupName, type Tally, tallyOf } from './tally.ts';

export type Running = Extract<RolloutState, { state: 'running' }>;

/** A running rollout is looked at this often at the latest. */
const TICK_MS = 1_000;
const MINUTE_MS = 60_000;
const START_WINDOWS_PER_MINUTE = 10;

/** `bins` are without acknowledged failures; `grants` are the judge's. */
export const runOn = (
  rollout: Rollout,
  progress: Running,
  bins: OutcomeBin[],
  grants: Grant[],
  facts: Pick<RolloutFacts, 'now' | 'windows'>,
): RolloutStep => {
  const { now } = facts;
  const total = tallyOf(bins);
  const isDecided = total.planned + total.unaccepted + total.undecided + total.installed === 0;
  if (isDecided && !staysOpen(rollout, now)) return complete(rollout, now);

  const opened = openWaves(rollout, progress, bins, now);
  const starts = startsOf(rollout, progress.starts, total.planned, now);
  const { offers, hold } = offersOf(rollout, opened, grants, total, starts, facts);
  const next: Running = { ...opened.progress, hold: hold ?? gateHold(rollout, opened, offers, total, now), starts };
  return {
    next: { ...rollout, progress: next },
    offers,
    withdraw: null,
    replan: false,
    audit: opened.audit,
    nextTickAt: nextTickAt(next, now),
    refused: null,
  };
};

/** A rollout that follows its cohorts waits for devices to come as long as it was said to. */
const staysOpen = ({ cohorts, endBy }: Rollout, now: Millis): boolean =>
  endBy !== undefined && now < endBy && cohorts.some(({ follow }) => follow === true);

export const complete = (rollout: Rollout, now: Millis): RolloutStep => ({
  next: { ...rollout, progress: { state: 'completed', at: now, ...acknowledgedIn(rollout.progress) } },
  offers: [],
  withdraw: null,
  replan: false,
  audit: [{ at: now, by: BY_SERVER, kind: 'rollout-completed', rollout: rollout.id }],
  nextTickAt: null,
  refused: null,
});

type Opened = {
  progress: Running;
  gate: Gate /** Devices planned in waves that are open. */;
  waiting: number;
  openBins: OutcomeBin[];
  audit: AuditEvent[];
};

/**
 * Waves open one after another while their gates let them: a wave without anyone passes at once, one that is unheard
 * never.
 */
const openWaves = (rollout: Rollout, before: Running, bins: OutcomeBin[], now: Millis): Opened => {
  const audit: AuditEvent[] = [];
  let progress = before;
  let gate = gateOf(rollout.policy, bins, progress.wave);
  for (let left = rollout.waveSizes.length; left > 0; left--) {
    progress = { ...progress, gateSince: isMet(gate) ? (progress.gateSince ?? now) : null };
    const isLast = progress.wave + 1 >= rollout.waveSizes.length;
    if (isLast || progress.gateSince === null || !hasSoaked(rollout, progress.gateSince, gate, now)) break;
    audit.push({
      at: now,
      by: BY_SERVER,
      kind: 'wave-opened',
      rollout: rollout.id,
      wave: progress.wave + 1,
      why: whyPassed(rollout, gate, now - progress.gateSince),
    });
    progress = { ...progress, wave: progress.wave + 1, waveSince: now, gateSince: null };
    gate = gateOf(rollout.policy, bins, progress.wave);
  }
  const openBins = bins.filter((bin) => bin.wave <= progress.wave);
  return { progress, gate, waiting: tallyOf(openBins).planned, openBins, audit };
};

const hasSoaked = (rollout: Rollout, gateSince: Millis, gate: Gate, now: Millis): boolean =>
  gate.reachable === 0 ? !isUnheard(gate) : now - gateSince >= rollout.policy.gate.soakMs;

/** Where all activate together, a device has done its part when it has installed. */
const whyPassed = ({ policy }: Rollout, gate: Gate, soakedMs: number): string =>
  gate.reachable === 0
    ? `no one in ${waveName(gate.wave)} is reachable`
    : `${gate.committed} of ${gate.reachable} reachable devices of ${waveName(gate.wave)} committed${policy.activation === 'at-once' ? '' : ' or wait installed'}, where ${gate.needed} must, and stayed so for ${Math.round(soakedMs / 1000)} s`;

/**
 * How many offers may start at once, and how long a window is. Spread over the minute, so that a fleet does not fetch
 * all at one instant.
 */
export const startLimit = (startsPerMinute: number): { windowMs: number; perWindow: number } => {
  const windowMs = Math.ceil(MINUTE_MS / Math.min(START_WINDOWS_PER_MINUTE, startsPerMinute));
  return { windowMs, perWindow: Math.max(1, Math.floor((startsPerMinute * windowMs) / MINUTE_MS)) };
};

export const startsOf = (
  rollout: Rollout,
  starts: StartWindow | undefined,
  planned: number,
  now: Millis,
): StartWindow => {
  const { windowMs } = startLimit(rollout.policy.limits.startsPerMinute);
  const isOver = starts === undefined || now >= starts.since + windowMs || now < starts.since;
  return isOver ? { since: now, planned } : starts;
};

/**
 * Offers within all limits. `hold` is not null when devices of open waves wait and none may be offered now. What was
 * offered since the window began is what is no longer planned: only the store knows who was free to be offered.
 */
const offersOf = (
  rollout: Rollout,
  opened: Opened,
  grants: Grant[],
  total: Tally,
  starts: StartWindow,
  { now, windows }: Pick<RolloutFacts, 'now' | 'windows'>,
): { offers: Offer[]; hold: Hold | null } => {
  if (opened.waiting === 0) return { offers: [], hold: null };
  const { limits, deadlines } = rollout.policy;
  const atRisk = total.unaccepted + total.undecided;
  if (atRisk >= limits.atRiskMax) {
    return { offers: [], hold: { kind: 'at-risk-limit', atRisk, limit: limits.atRiskMax } };
  }
  const { windowMs, perWindow } = startLimit(limits.startsPerMinute);
  const startsLeft = perWindow - Math.max(0, starts.planned - total.planned);
  if (startsLeft <= 0) return { offers: [], hold: { kind: 'rate-limit', nextAt: starts.since + windowMs } };

  let left = Math.min(startsLeft, limits.atRiskMax - atRisk);
  const granted = new Map(grants.map((grant) => [grant, grant.atMost - tallyOf(grant.group.bins).unaccepted]));
  const offers: Offer[] = [];
  const queues = queuesOf(grants, opened.progress.wave);
  const shut = (windows ?? []).filter(({ open }) => !open);
  const isShut = ({ grant }: Queue): boolean => shut.some(({ cohort }) => cohort === grant.group.cohort);
  for (const queue of inTurn(queues, now)) {
    if (isShut(queue)) continue;
    const { grant, wave, planned } = queue;
    const allowed = granted.get(grant)!;
    const atMost = Math.min(planned, allowed, left);
    if (atMost <= 0) continue;
    const { cohort, compatible } = grant.group;
    offers.push({ wave, cohort, compatible, atMost, acceptBy: now + deadlines.acceptMs });
    granted.set(grant, allowed - atMost);
    left -= atMost;
  }
  if (offers.length > 0) return { offers, hold: null };
  // The device whose turn it is: what a rollout waits for is not another thing each second.
  const judged = queues.find((queue) => !isShut(queue));
  return { offers, hold: judged === undefined ? windowHold(shut, queues) : judgeHold(judged.grant) };
};

/** Of the windows that devices wait for, the one that opens first. */
const windowHold = (shut: readonly WindowFacts[], queues: readonly Queue[]): Hold | null => {
  const [first] = shut
    .filter(({ cohort }) => queues.some(({ grant }) => grant.group.cohort === cohort))
    .sort((a, b) => (a.opensAt ?? Number.POSITIVE_INFINITY) - (b.opensAt ?? Number.POSITIVE_INFINITY));
  return first === undefined ? null : { kind: 'window', cohort: first.cohort, opensAt: first.opensAt };
};

const judgeHold = ({ group, risk, upperBound }: Grant): Hold => ({
  kind: 'judge',
  risk,
  upperBound,
  unaccepted: tallyOf(group.bins).unaccepted,
  group: groupName(group),
});

/** Planned devices of one group in one open wave. */
type Queue = { grant: Grant; wave: number; planned: number };

const queuesOf = (grants: Grant[], waveLast: number): Queue[] =>
  grants.flatMap((grant) =>
    Array.from({ length: waveLast + 1 }, (_, wave) => ({
      grant,
      wave,
      planned: tallyOf(grant.group.bins.filter((bin) => bin.wave === wave)).planned,
    })).filter(({ planned }) => planned > 0),
  );

/** 2^32 over the golden ratio: multiples of it spread evenly over a word, whatever the stride between them. */
const GOLDEN = 0x9e37_79b1;

/**
 * Who comes first changes with every tick: devices that are busy elsewhere cannot be offered to, and must not use up
 * the limits of others forever. Not simply in turn: ticks every other second would let every other queue wait.
 */
const inTurn = (queues: Queue[], now: Millis): Queue[] => {
  const spread = (Math.imul(Math.floor(now / TICK_MS), GOLDEN) >>> 0) / 2 ** 32;
  const first = Math.floor(spread * queues.length);
  return [...queues.slice(first), ...queues.slice(0, first)];
};

/** Everyone of the open waves was offered: it waits for outcomes, for the soak, or for all to activate. */
const gateHold = (rollout: Rollout, opened: Opened, offers: Offer[], total: Tally, now: Millis): Hold | null => {
  if (offers.length > 0 || opened.waiting > 0) return null;
  if (total.installed > 0 && total.planned + total.unaccepted + total.undecided === 0)
    return activationHold(rollout, total.installed, now);
  const { gateSince, wave } = opened.progress;
  const isLast = wave + 1 >= rollout.waveSizes.length;
  return {
    kind: 'gate',
    committed: opened.gate.committed,
    needed: opened.gate.needed,
    soakEndsAt: gateSince === null || isLast ? null : gateSince + rollout.policy.gate.soakMs,
  };
};

const activationHold = ({ policy, activatedAt }: Rollout, installed: number, now: Millis): Hold => {
  const { activation } = policy;
  const isOpen = activatedAt !== undefined || activation === 'at-once';
  if (!isOpen && activation === 'on-command') return { kind: 'activation', installed, waits: 'command', at: null };
  return !isOpen && typeof activation === 'number' && activation > now
    ? { kind: 'activation', installed, waits: 'time', at: activation }
    : { kind: 'activation', installed, waits: 'window', at: null };
};

/** The next second, or sooner when something is due sooner. */
const nextTickAt = ({ hold }: Running, now: Millis): Millis => {
  const due = hold?.kind === 'rate-limit' ? hold.nextAt : hold?.kind === 'gate' ? hold.soakEndsAt : null;
  return due === null || due === undefined || due <= now ? now + TICK_MS : Math.min(due, now + TICK_MS);
};
