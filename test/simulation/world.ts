/** What a simulation is made of: its seed, which faults there are, which bug was planted, what the releases are like, and what happened. */
import { createHash } from 'node:crypto';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { type Random, randomOf } from './random.ts';
import type { Time } from './time.ts';

export const FAULTS = [
  'delay', // messages wait, and overtake each other
  'loss', // a message is lost, and with it its connection
  'repeat', // a message arrives twice
  'partition', // a device is cut off for a while
  'store-latency', // calls of the store take their time, so that flows overlap
  'server-crash', // at any call of the store, before or after it was committed
  'agent-crash', // at any record or slot operation, before or after it was durable; the last write may be torn
  'journal-lost', // a restarted agent finds its journal damaged
  'full-disk', // a journal can not be written for a while
  'bad-disk', // what was written is not what is read
  'device-clock', // wrong by up to ten days
  'server-clock', // steps by up to a minute
  'bad-release', // crashes at once, is unhealthy, or fails on some devices only
  'operator', // pauses, resumes, aborts, withdraws, shuts devices out
] as const;
export type Fault = (typeof FAULTS)[number];

/** Bugs that the simulation must find. Each is put in where the simulation hands a collaborator to the real code. */
export const BUGS = [
  'revision-not-checked',
  'acknowledged-before-commit',
  'journal-forgets',
  'flush-skipped',
  'committed-without-trial',
  'read-back-skipped',
  'more-than-allowed',
  'withdrawal-lost',
  'confirmation-skipped',
  'receipt-not-needed',
] as const;
export type Bug = (typeof BUGS)[number];

export type Options = {
  seed: number;
  faults: ReadonlySet<Fault>;
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
  | { kind: 'flaky'; share: number };
export type Release = { version: string; behaviour: Behaviour; manifests: Map<Id, Sha256> };

export type World = {
  options: Options;
  time: Time;
  signerOf: (name: string) => Signer;
  releases: Map<string, Release>;
  random: (stream: string) => Random;
  /** Whether this kind of fault may happen now. */
  has(fault: Fault): boolean;
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

export const openWorld = (options: Options, time: Time, signerOf: World['signerOf']): World => {
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
  return {
    options,
    time,
    signerOf,
    releases: new Map(),
    random: (stream) => {
      const known = streams.get(stream) ?? randomOf(options.seed, stream);
      streams.set(stream, known);
      return known;
    },
    has: (fault) => !healed && options.faults.has(fault),
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

/** Whoever waits for this waits for ever: that is how calls of a dead process end. */
export const never = <T>(): Promise<T> => new Promise<T>(() => {});
