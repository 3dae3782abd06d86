/**
 * The install state machine: one deployment's journey on this device, decided purely. `TRANSITIONS` is all of it;
 * docs/agent.md repeats the table, and a test holds the two together. The shell (agent/deployment/machine.ts) records
 * each next state in the journal before it performs the effects, and every effect may be performed again after a crash.
 */
import { DeviceError, type Outcome } from '#shared/deployment.ts';
import { unreachable } from '#shared/ids.ts';
import { Signed } from '#shared/messages.ts';
import { mayActivateAt, mayInstallAt } from '#shared/windows.ts';
import { whenExceeded } from './exceeded.ts';
import {
  type Effect,
  type EventKind,
  type InstallEvent,
  InstallState,
  type Journey,
  type StateName,
} from './install-state.ts';

type Row = readonly [StateName, EventKind, StateName, string];

// biome-ignore format: a table is read by its columns
export const TRANSITIONS: readonly Row[] = [
  // state             event               next                effects
  ['idle',             'offered',          'accepted',         'check-manifest'],
  ['idle',             'withdrawn',        'idle',             ''],
  ['idle',             'restarted',        'idle',             'boot'],

  ['accepted',         'manifest-checked', 'waiting',          'await-permission'],
  ['accepted',         'found-running',    'committed',        'sign-receipt'],
  ['accepted',         'failed',           'failed',           'sign-receipt'],
  ['accepted',         'withdrawn',        'withdrawn',        'sign-receipt'],
  ['accepted',         'superseded',       'withdrawn',        'sign-receipt'],
  ['accepted',         'renewed',          'accepted',         ''],
  ['accepted',         'restarted',        'accepted',         'boot check-manifest'],

  ['waiting',          'permitted',        'fetching',         'fetch'],
  ['waiting',          'failed',           'failed',           'sign-receipt'],
  ['waiting',          'withdrawn',        'withdrawn',        'sign-receipt'],
  ['waiting',          'superseded',       'withdrawn',        'sign-receipt'],
  ['waiting',          'renewed',          'waiting',          ''],
  ['waiting',          'restarted',        'waiting',          'boot await-permission'],

  ['fetching',         'fetched',          'verified',         'install'],
  ['fetching',         'found-installed',  'ready',            'confirm-offer'],
  ['fetching',         'failed',           'failed',           'sign-receipt'],
  ['fetching',         'withdrawn',        'withdrawn',        'sign-receipt'],
  ['fetching',         'superseded',       'withdrawn',        'sign-receipt'],
  ['fetching',         'renewed',          'fetching',         ''],
  ['fetching',         'restarted',        'fetching',         'boot fetch'],

  ['verified',         'installed',        'ready',            'confirm-offer'],
  ['verified',         'failed',           'failed',           'sign-receipt'],
  ['verified',         'withdrawn',        'withdrawn',        'sign-receipt'],
  ['verified',         'superseded',       'withdrawn',        'sign-receipt'],
  ['verified',         'renewed',          'verified',         ''],
  // Writing a slot hashes the artifacts again, so nothing is lost by not fetching.
  ['verified',         'restarted',        'verified',         'boot install'],

  ['ready',            'confirmed',        'activating',       'activate'],
  ['ready',            'installed',        'ready',            'confirm-offer'],
  ['ready',            'failed',           'failed',           'sign-receipt'],
  ['ready',            'withdrawn',        'withdrawn',        'sign-receipt'],
  ['ready',            'superseded',       'withdrawn',        'sign-receipt'],
  ['ready',            'renewed',          'ready',            ''],
  ['ready',            'restarted',        'ready',            'boot recheck'],

  // From here on the slots know what has happened, and `withdrawn` comes too late.
  ['activating',       'booted-trial',     'trial',            'watch-trial'],
  ['activating',       'booted-other',     'reverting',        'revert'],
  ['activating',       'failed',           'reverting',        'revert'],
  ['activating',       'restarted',        'activating',       'inspect'],
  ['activating',       'found-untouched',  'activating',       'boot activate'],
  ['activating',       'found-on-trial',   'activating',       'boot-trial'],
  ['activating',       'found-active',     'reverting',        'revert'],

  ['trial',            'passed',           'committing',       'commit'],
  ['trial',            'failed',           'reverting',        'revert'],
  ['trial',            'booted-trial',     'trial',            'watch-trial'],
  ['trial',            'booted-other',     'reverting',        'revert'],
  ['trial',            'restarted',        'trial',            'inspect'],
  ['trial',            'found-untouched',  'reverting',        'revert'],
  ['trial',            'found-on-trial',   'trial',            'boot-trial'],
  // Committed, but the journal's newest record was lost: roll forward.
  ['trial',            'found-active',     'committing',       'commit'],

  // Recorded first: what hooks do afterwards, to the agent too, changes nothing any more.
  ['committing',       'committed',        'committed',        'after-commit sign-receipt'],
  ['committing',       'failed',           'reverting',        'revert'],
  ['committing',       'restarted',        'committing',       'inspect'],
  ['committing',       'found-untouched',  'reverting',        'revert'],
  ['committing',       'found-on-trial',   'committing',       'commit'],
  ['committing',       'found-active',     'committing',       'commit'],

  ['reverting',        'booted-other',     'verifying-revert', 'verify-revert'],
  ['reverting',        'failed',           'failed',           'sign-receipt'],
  ['reverting',        'restarted',        'reverting',        'revert'],
  // The commit succeeded, and only its answer failed.
  ['reverting',        'found-active',     'committed',        'boot after-commit sign-receipt'],
  // After too many restarts it is only asked how it ended.
  ['reverting',        'found-untouched',  'reverted',         'boot after-revert sign-receipt'],
  ['reverting',        'found-on-trial',   'reverting',        'revert'],

  ['verifying-revert', 'revert-verified',  'reverted',         'after-revert sign-receipt'],
  ['verifying-revert', 'failed',           'failed',           'sign-receipt'],
  ['verifying-revert', 'restarted',        'verifying-revert', 'boot verify-revert'],

  ['committed',        'signed',           'committed',        'send-receipt'],
  ['committed',        'acknowledged',     'reported',         'clean-up'],
  ['committed',        'restarted',        'committed',        'boot after-commit sign-receipt'],
  ['reverted',         'signed',           'reverted',         'send-receipt'],
  ['reverted',         'acknowledged',     'reported',         'clean-up'],
  ['reverted',         'restarted',        'reverted',         'boot after-revert sign-receipt'],
  ['failed',           'signed',           'failed',           'send-receipt'],
  ['failed',           'acknowledged',     'reported',         'clean-up'],
  ['failed',           'restarted',        'failed',           'boot sign-receipt'],
  ['withdrawn',        'signed',           'withdrawn',        'send-receipt'],
  ['withdrawn',        'acknowledged',     'reported',         'clean-up'],
  ['withdrawn',        'restarted',        'withdrawn',        'boot sign-receipt'],

  ['reported',         'cleaned',          'idle',             ''],
  ['reported',         'restarted',        'reported',         'boot clean-up'],
];

const ROWS = new Map(TRANSITIONS.map((row) => [`${row[0]} ${row[1]}`, row]));

export type Step = { next: InstallState; effects: Effect[] };

/** The one step. An event that has no row is late or not meant for this state: the very same state comes back. */
export const stepInstall = (now: InstallState, event: InstallEvent): Step => {
  const row = ROWS.get(`${now.state} ${event.kind}`);
  if (row === undefined || !fits(now, event)) return { next: now, effects: [] };
  const instead = now.state === 'idle' ? undefined : whenExceeded(now, event, row[2]);
  if (instead !== undefined) return { next: enter(instead.next, now, instead.event), effects: instead.effects };
  return { next: enter(row[2], now, event), effects: effectsOf(row, now, event) };
};

/** A device that was let go on just before a window closed may take so long to say so. */
const SAID_WITHIN_MS = 60_000;
/** The instruction lets the device go on, as far as it knows: it needs no one to tell it. */
const isTime = (allowedAt: typeof mayInstallAt, now: Journey, at: number): boolean =>
  [at, at - SAID_WITHIN_MS].some((moment) => (allowedAt(now.offer.install, moment) ?? Number.POSITIVE_INFINITY) <= at);

/** Nothing begins and nothing is activated before its time. A receipt is signed once and acknowledged only then. */
const fits = (now: InstallState, event: InstallEvent): boolean => {
  if (now.state === 'waiting' && event.kind === 'permitted') return isTime(mayInstallAt, now, event.time ?? event.at);
  if (now.state === 'ready' && event.kind === 'confirmed') return isTime(mayActivateAt, now, event.time ?? event.at);
  if (now.state === 'reverting' && event.kind === 'found-active') return now.commitStands === true;
  if (event.kind === 'signed') return 'receipt' in now && now.receipt === null;
  if (event.kind === 'acknowledged') return 'receipt' in now && now.receipt !== null;
  return true;
};

const effectsOf = (row: Row, now: InstallState, event: InstallEvent): Effect[] => {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a test reads every cell of the table
  const effects = row[3].split(' ').filter((effect) => effect !== '') as Effect[];
  const signedBefore = event.kind === 'restarted' && 'receipt' in now && now.receipt !== null;
  if (!signedBefore) return effects;
  return effects.flatMap((effect) =>
    effect === 'sign-receipt' ? ['send-receipt'] : effect.startsWith('after-') ? [] : [effect],
  );
};

const ENDED = new Set<StateName>(['committed', 'reverted', 'failed', 'withdrawn', 'reported']);
const BEFORE_ACTIVATION = new Set<StateName>(['accepted', 'waiting', 'fetching', 'verified', 'ready']);
/** The deployment has its outcome. */
export const hasEnded = (now: InstallState): boolean => ENDED.has(now.state);
/** The offer can still be withdrawn. */
export const isBeforeActivation = (now: InstallState): boolean => BEFORE_ACTIVATION.has(now.state);

const bug = (name: StateName, now: InstallState, event: InstallEvent): never => {
  throw new Error(`no way from ${now.state} to ${name} by ${event.kind}`);
};

/** Builds the next state from the present one and what the event brings. */
const enter = (name: StateName, now: InstallState, event: InstallEvent): InstallState => {
  if (name === 'idle') return { state: 'idle' };
  if (now.state === 'idle') {
    if (name !== 'accepted' || event.kind !== 'offered') return bug(name, now, event);
    return { state: name, offer: event.offer, since: event.at, transitions: 1 };
  }
  const common = {
    offer: event.kind === 'renewed' ? event.offer : now.offer,
    since: name === now.state ? now.since : event.at,
    transitions: now.transitions + 1,
  };
  switch (name) {
    case 'accepted':
      return { state: name, ...common };
    case 'waiting':
    case 'verified':
    case 'ready':
    case 'activating':
    case 'committing': {
      const slot = event.kind === 'manifest-checked' ? event.slot : 'slot' in now ? now.slot : bug(name, now, event);
      return { state: name, ...common, slot };
    }
    case 'fetching':
    case 'trial': {
      const slot = 'slot' in now ? now.slot : bug(name, now, event);
      const began = now.state === name ? now.began : 'uptime' in event ? event.uptime : undefined;
      return { state: name, ...common, slot, began };
    }
    case 'reverting': {
      const slot = 'slot' in now ? now.slot : bug(name, now, event);
      return { state: name, ...common, slot, error: errorOf(now, event), ...commitStands(now, event) };
    }
    case 'verifying-revert': {
      const slot = 'slot' in now ? now.slot : bug(name, now, event);
      return { state: name, ...common, slot, error: errorOf(now, event) };
    }
    case 'committed':
    case 'withdrawn':
      return { state: name, ...common, receipt: receiptOf(now, event) };
    case 'reverted':
    case 'failed':
      return { state: name, ...common, error: errorOf(now, event), receipt: receiptOf(now, event) };
    case 'reported':
      return { state: name, ...common, outcome: outcomeOf(now) ?? bug(name, now, event) };
    default:
      return unreachable(name);
  }
};

/** A trial that was given up has no verdict; its commit may have been recorded by the boot selector only. */
const commitStands = (now: InstallState, event: InstallEvent): { commitStands?: true } => {
  const isUnjudged = event.kind === 'failed' && event.error.code === 'TRANSITIONS_EXCEEDED';
  const stands =
    (now.state === 'reverting' && now.commitStands === true) ||
    now.state === 'committing' ||
    (now.state === 'trial' && isUnjudged);
  return stands ? { commitStands: true } : {};
};

/** A failed revert says so, and why it was tried; everything else keeps the first error: the cause. */
const errorOf = (now: InstallState, event: InstallEvent): DeviceError => {
  const earlier = 'error' in now ? now.error : undefined;
  if (event.kind === 'failed') {
    if (earlier === undefined) return event.error;
    const message = `${event.error.message}; reverted because of ${earlier.code}: ${earlier.message}`;
    return { code: event.error.code, message: message.slice(0, 1_024) };
  }
  if (earlier !== undefined) return earlier;
  const why = event.kind === 'booted-other' ? event.why : 'the boot selector has given the trial up';
  return { code: 'TRIAL_CRASHED', message: why };
};

const receiptOf = (now: InstallState, event: InstallEvent): Signed | null => {
  if (event.kind === 'signed') return event.receipt;
  return 'receipt' in now ? now.receipt : null;
};

export const outcomeOf = (now: InstallState): Outcome | undefined => {
  if (now.state === 'reported') return now.outcome;
  return now.state === 'committed' || now.state === 'reverted' || now.state === 'failed' || now.state === 'withdrawn'
    ? now.state
    : undefined;
};

/** Which attempt at its deployment this is, as its instruction says it: absent from the first. */
export const attemptOf = ({ offer }: Pick<Journey, 'offer'>): { attempt?: number } =>
  offer.install.attempt === undefined ? {} : { attempt: offer.install.attempt };
