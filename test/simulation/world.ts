/**
 * What a simulation is made of: its seed, which faults there are, which bug was planted, what the releases are like,
 * and what happened.
 */
import { createHash } from 'node:crypto';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { Signer } from '#shared/trust/signers.ts';
import type { Drives } from './drive.ts';
import { type Random, randomOf } from './random.ts';
import type { Time } from './time.ts';

export const FAULTS = [
  'delay', // messages wait, and overtake each other
  'loss', // a message is lost, and with it its connection
  'repeat', // a message arrives twice
  'late-ack', // an acknowledgement waits until its device has a receipt to deliver again: the same, or another
  'partition', // a device is cut off for a while
  'store-latency', // calls of the store take their time, so that flows overlap
  'server-crash', // at any call of the store, before or after it was committed
  'agent-crash', // at any operation of a drive or slot, before or after it; what was not flushed is torn or gone
  'journal-lost', // a restarted agent finds its journal damaged
  'full-disk', // a file cannot be written
  'slot-full', // a release does not fit, this time
  'bad-disk', // what was written is not what is read
  'device-clock', // wrong by up to ten days
  'server-clock', // steps by up to a minute
  'bad-release', // crashes at once, is unhealthy, fails on some devices only, or falls ill after it was committed
  'operator', // pauses, resumes, aborts, activates, approves, withdraws, shuts devices out
  'by-hand', // someone installs something on a device, by hand
] as const;
export type Fault = (typeof FAULTS)[number];

/** What policies and plans make use of. */
export const FEATURES = [
  'windows', // per rollout or cohort, in the device's time zone or another
  'activation', // at a time, or on command
  'priorities', // rollouts that take devices over
  'follow', // cohorts that devices come to match
  'retries', // with a cool-down
  'watch', // for late regressions
  'end-by', // rollouts that are over at a time
  'channels', // promotion, and what production requires
  'approvals', // of rollouts in production, by others than their author
  'simple-rules', // instead of the judge
  'recall', // by policy after a halt, or by command
  'deadlines', // for single states
  'unconfirmed', // devices that find no one to ask may activate
] as const;
export type Feature = (typeof FEATURES)[number];

/** Bugs that the simulation must find. Each is put in where the simulation hands a collaborator to the real code. */
export const BUGS = [
  'revision-not-checked',
  'acknowledged-before-commit',
  'flush-of-files-skipped',
  'flush-skipped',
  'committed-without-trial',
  'read-back-skipped',
  'more-than-allowed',
  'withdrawal-lost',
  'confirmation-skipped',
  'receipt-not-needed',
  'receipt-dropped',
  'acknowledged-by-deployment',
  'takeover-keeps-both',
  'window-ignored',
  'activates-early',
  'retry-without-cool-down',
  'joins-twice',
  'approval-not-needed',
  'promotion-unchecked',
  'watch-skipped',
  'drift-overlooked',
  'recalls-everyone',
  'recall-forgets-one',
] as const;
export type Bug = (typeof BUGS)[number];

export type Options = {
  seed: number;
  faults: ReadonlySet<Fault>;
  features: ReadonlySet<Feature>;
  /** Single strikes of faults that are left out, such as `loss#17`: how a history is made shorter. */
  without?: ReadonlySet<string>;
  /** What has not failed by then counts as holding. */
  giveUpMs?: number;
  devices: number;
  /** How long faults happen. */
  faultyMs: number;
  /** How many rollouts are begun in that time. */
  rollouts: number;
  bug?: Bug | undefined;
};

/** How an application behaves: `flaky` fails its trial on this share of the devices. */
export type Behaviour =
  | { kind: 'good' }
  | { kind: 'crashes' }
  | { kind: 'unhealthy' }
  | { kind: 'flaky'; share: number }
  /** Well at first; on this share of the devices it falls ill so long after each start. */
  | { kind: 'fades'; share: number; afterMs: number };
export type Release = { version: string; behaviour: Behaviour; manifests: Map<Id, Sha256> };

export type World = {
  options: Options;
  time: Time;
  drives: Drives;
  /** What devices download, by digest. */
  objects: Map<string, Buffer>;
  signerOf: (name: string) => Signer;
  releases: Map<string, Release>;
  random: (stream: string) => Random;
  /** Whether this kind of fault may happen now. */
  has(fault: Fault): boolean;
  /** Whether it happens at this very moment, by chance. */
  strikes(fault: Fault, random: Random, probability: number): boolean;
  /** What has struck, in order. */
  struck: string[];
  uses(feature: Feature): boolean;
  /** From now on nothing goes wrong any more. */
  heal(): void;
  /** One line of the history. */
  tell(line: string): void;
  /** A property does not hold: ends the simulation. */
  violate(what: string): void;
  violation(): { what: string; at: number } | null;
  history: { lines: string[]; digest(): string };
};

const LINES_MAX = 200_000;

export const openWorld = (options: Options, time: Time, signerOf: World['signerOf'], drives: Drives): World => {
  const lines: string[] = [];
  const hash = createHash('sha256');
  const startAt = time.now();
  let healed = false;
  let violation: { what: string; at: number } | null = null;
  const tell = (line: string): void => {
    const text = `${((time.now() - startAt) / 1000).toFixed(3).padStart(10)} ${line}`;
    hash.update(text);
    if (lines.length < LINES_MAX) lines.push(text);
  };
  const streams = new Map<string, Random>();
  const struck: string[] = [];
  const counts = new Map<Fault, number>();
  const has = (fault: Fault): boolean => !healed && options.faults.has(fault);
  return {
    options,
    time,
    drives,
    objects: new Map(),
    struck,
    strikes: (fault, random, probability) => {
      if (!has(fault) || !random.chance(probability)) return false;
      const number = (counts.get(fault) ?? 0) + 1;
      counts.set(fault, number);
      const name = `${fault}#${number}`;
      if (options.without?.has(name) === true) return false;
      struck.push(name);
      return true;
    },
    uses: (feature) => options.features.has(feature),
    signerOf,
    releases: new Map(),
    random: (stream) => {
      const known = streams.get(stream) ?? randomOf(options.seed, stream);
      streams.set(stream, known);
      return known;
    },
    has,
    heal: () => {
      healed = true;
      tell('from here on nothing goes wrong');
    },
    tell,
    violate: (what) => {
      if (violation !== null) return;
      violation = { what, at: time.now() - startAt };
      tell(`VIOLATED: ${what}`);
    },
    violation: () => violation,
    history: { lines, digest: () => hash.copy().digest('hex') },
  };
};

/** What waits for this waits forever: that is how calls of a dead process end. */
export const never = <T>(): Promise<T> => new Promise<T>(() => {});
