/**
 * One history of the whole system from a seed: first safety under faults, then liveness with the faults off.
 * The same options give the same history, to the byte.
 */
import type Database from 'better-sqlite3';
import { auditLine } from '#server/domain/audit.ts';
import { implementStore } from '#server/store/methods/implement-store.ts';
import type { StoreMethods } from '#server/store/methods/methods.ts';
import { openDatabase, sqlOn } from '#server/store/sqlite/sql.ts';
import { Id } from '#shared/ids.ts';
import { type Device, openDevice } from './agent.ts';
import { mountDrives } from './drive.ts';
import { scheduleFaults } from './faults.ts';
import { openNetwork } from './network.ts';
import { openPeople } from './people.ts';
import { ZONES } from './policies.ts';
import { randomOf } from './random.ts';
import { COMPATIBLES, channelsOf, FACTORY, furnish } from './releases.ts';
import { readRows } from './rows.ts';
import { watchOf } from './rules-device.ts';
import { openServer } from './server.ts';
import { settleAll } from './settle.ts';
import { signerOf } from './signers.ts';
import { freshDisk } from './slots.ts';
import { openTime } from './time.ts';
import { openWitness } from './witness.ts';
import { FAULTS, FEATURES, type Options, openWorld, type World } from './world.ts';

/** An ordinary day, and nights on which clocks are set back somewhere. */
const STARTS = [Date.UTC(2026, 10, 21), Date.UTC(2026, 9, 24, 23, 30), Date.UTC(2027, 3, 3, 14), Date.UTC(2027, 2, 28)];
const MINUTE_MS = 60_000;

export type Outcome = {
  violation: { what: string; at: number } | null;
  /** SHA-256 over every line of the history. */
  digest: string;
  lines: string[];
  /** Single faults, in order, by name. */
  struck: string[];
  deviceHours: number;
  counts: Record<string, number>;
};

/** Sizes, faults and features that a seed alone stands for. */
export const optionsOf = (seed: number, more: Partial<Options> = {}): Options => {
  const random = randomOf(seed, 'options');
  // Some seeds do without some faults and features: one can hide what another would show.
  const faults = new Set(FAULTS.filter((fault) => fault === 'late-ack' || !random.chance(0.15)));
  const features = new Set(FEATURES.filter(() => random.chance(0.6)));
  // By chance of its own: it came later, and seeds keep what they stood for.
  if (randomOf(seed, 'late-ack').chance(0.3)) faults.delete('late-ack');
  return {
    seed,
    faults,
    features,
    devices: random.between(4, 16),
    faultyMs: random.between(30, 120) * MINUTE_MS,
    rollouts: random.between(2, 5),
    ...more,
  };
};

export const simulate = async (options: Options): Promise<Outcome> => {
  const startAt = randomOf(options.seed, 'start').pick(STARTS);
  const time = openTime(startAt, randomOf(options.seed, 'Math.random'));
  const drives = mountDrives();
  const database = openDatabase(':memory:');
  try {
    const world = openWorld(options, time, memoized(signerOf), drives);
    await run(world, database, startAt);
    const hours = (time.now() - startAt) / 3_600_000;
    return {
      violation: world.violation(),
      digest: world.history.digest(),
      lines: world.history.lines,
      struck: world.struck,
      deviceHours: hours * options.devices,
      counts: countsOf(world.history.lines),
    };
  } finally {
    drives.unmount();
    time.restore();
    database.close();
  }
};

const run = async (world: World, database: Database.Database, startAt: number): Promise<void> => {
  const { time, options } = world;
  const methods = implementStore(sqlOn(database));
  const rows = readRows(database);
  const director = world.signerOf('director');
  const channels = channelsOf(world);
  const zones = new Map<Id, string>();
  const witness = openWitness(world, rows, channels, (device) => zones.get(device) ?? 'UTC');
  const network = openNetwork(world);
  const server = openServer({ world, database, methods, rows, witness, network, director });
  const ids = Array.from({ length: options.devices }, (_, index) => Id.parse(`gw-${index + 1}`));
  // Where cohorts are followed, some devices come later.
  const late = world.uses('follow') ? Math.ceil(ids.length / 4) : 0;
  await furnish(world, methods, ids.slice(0, ids.length - late), channels);
  const watch = watchOf(world, rows, server, witness);
  const random = world.random('devices');
  const devices = ids.map((id, index) => {
    const compatible = COMPATIBLES[index % 3 === 2 ? 1 : 0]!;
    const disk = freshDisk(FACTORY, world.releases.get(FACTORY)!.manifests.get(compatible)!);
    const timeZone = random.pick(ZONES);
    zones.set(id, timeZone);
    return openDevice({ world, network, director, watch }, { id, compatible, timeZone, disk });
  });
  const people = openPeople({ world, server, rows, devices, channels });
  server.start();
  for (const [index, device] of devices.entries()) {
    const begin = async (): Promise<void> => {
      await enrol(world, methods, device);
      device.start();
    };
    const comesAt = random.between(1, Math.floor(options.faultyMs * 0.9));
    if (index < ids.length - late) await begin();
    else time.at(comesAt, undefined, () => void begin());
  }

  const giveUpAt = startAt + (options.giveUpMs ?? Number.POSITIVE_INFINITY);
  const over = (): boolean => world.violation() !== null || time.now() > giveUpAt;
  scheduleFaults({ world, network, server, devices, people, witness });
  if (!(await time.runUntil(startAt + options.faultyMs, over))) return;
  world.heal();
  network.heal();
  server.clockOffMs = 0;
  for (const device of devices) device.clockOffMs = 0;
  await settleAll({ world, rows, devices, people, witness, over });
};

const enrol = async (world: World, methods: StoreMethods, { id, compatible }: Device): Promise<void> => {
  const at = world.time.now();
  world.tell(`${id} enrols`);
  const publicKey = world.signerOf(id).key.keyval.public;
  await methods.enrolDevice(
    { id, publicKey, compatible, attributes: {}, enrolledAt: at },
    null,
    at,
    auditLine({ at, by: 'device', kind: 'device-enrolled', device: id, publicKey, compatible, state: 'pending' }),
  );
  await methods.setDeviceState(id, 'accepted', at, auditLine({ at, by: 'ada', kind: 'device-accepted', device: id }));
};

const memoized = <T>(make: (name: string) => T): ((name: string) => T) => {
  const made = new Map<string, T>();
  return (name) => {
    const known = made.get(name) ?? make(name);
    made.set(name, known);
    return known;
  };
};

/** What a history was made of, to see that the simulation does what it should. */
const countsOf = (lines: string[]): Record<string, number> => {
  const words: Record<string, RegExp> = {
    serverCrashes: /the server crashes$/,
    powerCuts: /loses its power$/,
    commits: /is committed in/,
    reverts: /is reverted in/,
    failures: /is failed in/,
    withdrawals: /is withdrawn in/,
    halts: /-> halted$/,
    completions: /-> completed$/,
    lateRegressions: /committed -> (failed|reverted)$/,
    retries: /could not take up the offer/,
    takeovers: /comes first and took over/,
    drifts: /no one told it to run/,
    activations: /let the devices of rollout .* activate/,
    approvals: /approved rollout/,
    joined: /and joined/,
    promotions: / promoted .* from /,
    byHand: /changed by hand/,
  };
  return Object.fromEntries(
    Object.entries(words).map(([name, word]) => [name, lines.filter((line) => word.test(line)).length]),
  );
};
