/**
 * One history of the whole system from a seed: first safety under faults, then liveness with the faults off.
 * The same options give the same history, to the byte.
 */
import { auditLine } from '#server/domain/audit.ts';
import { implementStore } from '#server/store/sqlite/implementation.ts';
import { openSql } from '#server/store/sqlite/sql.ts';
import type { SyncStore } from '#server/store/sqlite/sync.ts';
import { Id } from '#shared/ids.ts';
import { type Device, openDevice } from './agent.ts';
import { openWitness, type Witness } from './checks.ts';
import { openNetwork } from './network.ts';
import { COMPATIBLES, FACTORY, furnish, openPeople, type People } from './people.ts';
import { randomOf } from './random.ts';
import { openServer, type Server } from './server.ts';
import { signerOf } from './signers.ts';
import { freshDisk } from './slots.ts';
import { openTime } from './time.ts';
import { FAULTS, type Options, openWorld, type World } from './world.ts';

const START_AT = Date.UTC(2026, 10, 21);
const MINUTE_MS = 60_000;
/** From the server's answer to the journal's record of it: an answer may be late, and a disk full for a while. */
const CONFIRMED_MS_MAX = 150_000;
/** With the faults off, everything has to end within this time. */
const LIVE_MS_MAX = 6 * 60 * MINUTE_MS;

export type Outcome = {
  violation: { what: string; at: number } | null;
  /** SHA-256 over every line of the history. */
  digest: string;
  lines: string[];
  deviceHours: number;
  counts: Record<string, number>;
};

/** Sizes and faults that a seed alone stands for. */
export const optionsOf = (seed: number, more: Partial<Options> = {}): Options => {
  const random = randomOf(seed, 'options');
  // Some seeds do without some faults: one fault can hide what another would show.
  const faults = new Set(FAULTS.filter(() => !random.chance(0.15)));
  return {
    seed,
    faults,
    devices: random.between(4, 16),
    faultyMs: random.between(30, 90) * MINUTE_MS,
    rollouts: random.between(2, 4),
    ...more,
  };
};

export const simulate = async (options: Options): Promise<Outcome> => {
  const time = openTime(START_AT, randomOf(options.seed, 'Math.random'));
  const sql = openSql(':memory:');
  try {
    const world = openWorld(options, time, memoized(signerOf));
    await run(world, implementStore(sql));
    const hours = (time.now() - START_AT) / 3_600_000;
    return {
      violation: world.violation(),
      digest: world.history.digest(),
      lines: world.history.lines,
      deviceHours: hours * options.devices,
      counts: countsOf(world.history.lines),
    };
  } finally {
    time.restore();
    sql.close();
  }
};

const run = async (world: World, sync: SyncStore): Promise<void> => {
  const { time, options } = world;
  const director = world.signerOf('director');
  const witness = openWitness(world, sync);
  const network = openNetwork(world);
  const server = openServer({ world, sync, witness, network, director });
  const ids = Array.from({ length: options.devices }, (_, index) => Id.parse(`gw-${index + 1}`));
  furnish(world, sync, ids);
  const watch = watchOf(world, server, witness);
  const devices = ids.map((id, index) => {
    const compatible = COMPATIBLES[index % 3 === 2 ? 1 : 0]!;
    enrol(world, sync, id, compatible);
    const disk = freshDisk(FACTORY, world.releases.get(FACTORY)!.manifests.get(compatible)!);
    return openDevice({ world, network, director, watch }, id, compatible, disk);
  });
  const people = openPeople(world, server, sync, devices);
  server.start();
  for (const device of devices) device.start();

  const over = (): boolean => world.violation() !== null;
  scheduleFaults(world, network, server, devices, people, witness);
  if (!(await time.runUntil(START_AT + options.faultyMs, over))) return;
  world.heal();
  network.heal();
  server.clockOffMs = 0;
  for (const device of devices) device.clockOffMs = 0;
  await settleAll(world, sync, devices, people, witness, over);
};

const enrol = (world: World, sync: SyncStore, device: Id, compatible: Id): void => {
  const at = world.time.now();
  const publicKey = world.signerOf(device).key.keyval.public;
  sync.enrolDevice(
    { id: device, publicKey, compatible, attributes: {}, enrolledAt: at },
    null,
    at,
    auditLine({ at, by: 'device', kind: 'device-enrolled', device, publicKey, compatible, state: 'pending' }),
  );
  sync.setDeviceState(device, 'accepted', at, auditLine({ at, by: 'ada', kind: 'device-accepted', device }));
};

/** What devices do, against what the server knows at that moment. */
const watchOf = (world: World, server: Server, witness: Witness): Parameters<typeof openDevice>[0]['watch'] => ({
  activating: (device, deployment, newest) => {
    const row = witness.deployments.get(deployment);
    const now = world.time.now();
    if (row === undefined) return world.violate(`${device} activates ${deployment}, which the server does not know`);
    const supersedes =
      newest !== null && (newest.instruction.kind === 'none' || newest.instruction.deployment !== deployment);
    // It may be that the word came while the journal was being written.
    if (supersedes && newest.at < now - 2_000)
      world.violate(`${device} activates ${deployment} although its withdrawal reached it ${now - newest.at} ms ago`);
    const withdrewAt = witness.withdrewAt(row.rollout);
    const asked = server.askedAt.get(device);
    if (asked === undefined || now - asked > CONFIRMED_MS_MAX)
      return world.violate(`${device} activates ${deployment} without having asked whether the offer still stands`);
    // A pause lets those go on who have their offer; a trial that is under way may be started again by whoever forgot it.
    const ended = row.state === 'withdrawn' || row.state === 'reverted' || row.state === 'failed';
    // Whoever ran the release for good already, and forgot it with the journal, is not a new device.
    const isNew = !witness.committed.has(deployment);
    if (withdrewAt !== undefined && ended && isNew && asked > withdrewAt)
      world.violate(`${device} activates ${deployment}: it asked after its offer was withdrawn, and was told to go on`);
  },
  reported: (device, receipt) => {
    if (!witness.receipts.has(receipt))
      world.violate(`${device} takes its receipt for delivered, and the server does not have it: ${receipt}`);
  },
});

const scheduleFaults = (
  world: World,
  network: ReturnType<typeof openNetwork>,
  server: Server,
  devices: Device[],
  people: People,
  witness: Witness,
): void => {
  const { time } = world;
  const every = (stream: string, meanMs: number, act: () => void): void => {
    const random = world.random(`when ${stream}`);
    const again = (): void => {
      act();
      time.at(random.between(1, 2 * meanMs), undefined, again);
    };
    time.at(random.between(1, 2 * meanMs), undefined, again);
  };
  const perRollout = Math.floor(world.options.faultyMs / (world.options.rollouts + 1));
  time.at(20_000, undefined, people.plan);
  every('plan', perRollout, people.plan);
  every('recount', 5 * MINUTE_MS, witness.recount);
  const random = world.random('faults');
  every('operator', 2 * MINUTE_MS, () => {
    // Two people at the same moment, now and then.
    for (let person = 0; world.has('operator') && person < random.between(1, 2); person += 1) people.meddle();
  });
  every('server-crash', 20 * MINUTE_MS, () => {
    if (world.has('server-crash')) server.crash();
  });
  every('agent-crash', 5 * MINUTE_MS, () => {
    if (world.has('agent-crash')) random.pick(devices).crash();
  });
  every('partition', 6 * MINUTE_MS, () => {
    if (world.has('partition')) network.partition(random.pick(devices).id, random.between(1, 20) * MINUTE_MS);
  });
  every('device-clock', 10 * MINUTE_MS, () => {
    if (!world.has('device-clock')) return;
    const device = random.pick(devices);
    device.clockOffMs = random.chance(0.3) ? 0 : random.between(-10, 10) * 86_400_000 + random.between(-5_000, 5_000);
    world.tell(`${device.id} is ${device.clockOffMs} ms off`);
  });
  every('server-clock', 15 * MINUTE_MS, () => {
    if (!world.has('server-clock')) return;
    server.clockOffMs = random.between(-60_000, 60_000);
    world.tell(`the server is ${server.clockOffMs} ms off`);
  });
};

/** Liveness: everything ends, and everybody knows. */
const settleAll = async (
  world: World,
  sync: SyncStore,
  devices: Device[],
  people: People,
  witness: Witness,
  over: () => boolean,
): Promise<void> => {
  const { time } = world;
  const until = time.now() + LIVE_MS_MAX;
  let why = '';
  while (time.now() < until) {
    people.settle();
    if (!(await time.runUntil(time.now() + 2 * MINUTE_MS, over))) return;
    why = unsettled(sync, devices);
    if (why === '') break;
  }
  witness.recount();
  if (why !== '') return world.violate(`with the faults off for ${LIVE_MS_MAX / 3_600_000} hours: ${why}`);
  for (const row of witness.deployments.values())
    if (row.state === 'committed' && ![...witness.receipts].some((receipt) => receipt.includes(`"${row.id}"`)))
      return world.violate(`${row.id} is committed without a receipt`);
  world.tell('everything has ended');
};

/** The first thing that has not ended, in words; empty when all has. */
const unsettled = (sync: SyncStore, devices: Device[]): string => {
  for (const { plan, progress } of sync.listRollouts({ limit: 1_000 })) {
    if (progress.state !== 'completed' && progress.state !== 'aborted')
      return `rollout ${plan.id} is ${progress.state}`;
    const left = sync.listDeployments({ rollout: plan.id }, { limit: 10_000 }).find((row) => UNDER_WAY.has(row.state));
    if (left !== undefined) return `deployment ${left.id} is ${left.state}`;
  }
  if (sync.takeOutbox(1).length > 0) return 'the outbox is not empty';
  for (const { id, disk, memory } of devices) {
    const state = memory()?.install.state ?? 'off';
    if (state !== 'idle') return `${id} is ${state}`;
    const record = sync.getDevice(id);
    if (record?.deployment !== null) return `${id} is owned by ${record?.deployment}`;
    const runs = disk.contents[disk.active]?.manifest;
    if (record.running?.manifest !== runs)
      return `${id} runs ${runs}, and the server believes ${record.running?.manifest}`;
  }
  return '';
};
const UNDER_WAY: ReadonlySet<string> = new Set(['planned', 'offered', 'fetching', 'installing', 'ready', 'trial']);

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
  };
  return Object.fromEntries(
    Object.entries(words).map(([name, word]) => [name, lines.filter((line) => word.test(line)).length]),
  );
};
