/**
 * The server of a simulation: the real flows and shells, constructed as server/main.ts does, on a store that survives
 * and a process that may die at any moment.
 */
import type Database from 'better-sqlite3';
import type { Logger } from 'pino';
import { desiredOf } from '#server/flow/device/desired.ts';
import type { DeviceLink } from '#server/flow/device/device-link.ts';
import { makeGreeter } from '#server/flow/device/greet-device.ts';
import { makeIngest } from '#server/flow/device/ingest.ts';
import { grantGrace, noteAlive } from '#server/flow/rollout/grant-grace.ts';
import { type Rollouts, startRollouts } from '#server/flow/rollout/rollouts.ts';
import type { StoreMethods } from '#server/store/methods/methods.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';
import type { Signer } from '#shared/trust/signers.ts';
import type { Network } from './network.ts';
import type { Rows } from './rows.ts';
import { watchReports } from './rules-reports.ts';
import { storeFor } from './store.ts';
import type { Process } from './time.ts';
import type { Witness } from './witness.ts';
import type { World } from './world.ts';

/** What an operator's call needs. */
export type Running = { process: Process; store: Store; rollouts: Rollouts; link: DeviceLink; now: () => number };
export type Server = {
  start: () => void;
  crash: () => void;
  running: () => Running | undefined;
  /** How far its clock is off. */
  clockOffMs: number;
  /** When the server was last asked to confirm that this device's offer stands, by virtual time. */
  askedAt: ReadonlyMap<Id, number>;
};

const GRACE_MS_MAX = 900_000;
const ALIVE_MS = 60_000;
const observer = {
  message: () => {},
  ingested: () => {},
  refused: () => {},
  receiptRefused: () => {},
  takenOver: () => undefined,
  keyShared: () => undefined,
};

export const openServer = (deps: {
  world: World;
  database: Database.Database;
  methods: StoreMethods;
  rows: Rows;
  witness: Witness;
  network: Network;
  director: Signer;
}): Server => {
  const { world, network } = deps;
  const { time } = world;
  const random = world.random('server');
  const askedAt = new Map<Id, number>();
  let process: Process = { name: 'server', dead: true };
  let running: Running | undefined;

  const server: Server = {
    clockOffMs: 0,
    askedAt,
    running: () => running,
    crash: () => {
      if (process.dead) return;
      process.dead = true;
      running = undefined;
      world.tell('the server crashes');
      deps.witness.serverDown();
      network.listen(undefined);
      const downMs = random.chance(0.1) ? random.between(300_000, 2_400_000) : random.between(1_000, 60_000);
      time.at(downMs, undefined, server.start);
    },
    start: () => {
      process = { name: 'server', dead: false };
      const mine = process;
      time.within(mine, () => {
        live(deps, server, mine, askedAt, (opened) => {
          if (!mine.dead) running = opened;
        }).catch((error: unknown) => {
          if (!mine.dead) world.violate(`the server cannot start: ${String(error)}`);
        });
      });
    },
  };
  return server;
};

const live = async (
  deps: Parameters<typeof openServer>[0],
  server: Server,
  process: Process,
  askedAt: Map<Id, number>,
  opened: (running: Running) => void,
): Promise<void> => {
  const { world, database, methods, rows, network, director } = deps;
  const now = (): number => world.time.now() + server.clockOffMs;
  world.tell('the server starts');
  const store = storeFor({ world, database, methods, rows, witness: deps.witness, process, crash: server.crash });
  await store.setAllOffline();
  await grantGrace({ store, now }, GRACE_MS_MAX);
  setInterval(() => void noteAlive({ store, now }), ALIVE_MS);

  const reports = watchReports(world, rows, deps.witness);
  const complain = (fields: unknown, text?: string): void => {
    if (!process.dead) world.violate(`the server complains: ${text} ${String(errorOf(fields))}`);
  };
  // Warnings are about devices, and some of what devices do here is odd.
  const log = { info: () => {}, warn: () => {}, error: complain } as unknown as Pick<Logger, 'info' | 'warn' | 'error'>;
  const link: DeviceLink = {
    pushDesired: (device, desired) => {
      if (!process.dead) network.push(device, { desired });
    },
    acknowledge: (device, ack) => {
      if (process.dead) return;
      reports.acknowledged(device, ack);
      network.push(device, { ack });
    },
    disconnect: (device) => {
      if (!process.dead) network.drop(device);
    },
  };
  const rollouts = startRollouts({
    store,
    now,
    director,
    link,
    onError: (error, rollout) => complain({ err: error }, `rollout ${rollout}:`),
  });
  const keepLog = (): void => {};
  const ingest = makeIngest({ store, link, now, log, observer, keepLog, wake: (rollout) => rollouts.wake(rollout) });
  const greeter = makeGreeter({ store, link, now, log, director });
  network.listen({
    process,
    admits: (device) => rows.device(device)?.state === 'accepted',
    presence: (device, online) => {
      ingest.presence(device, online);
      if (online) greeter.greet(device);
    },
    message: (device, channel, payload) => {
      reports.arrived(device, channel, payload);
      ingest.message(device, channel, payload);
    },
    ask: async (device, why) => {
      if (why === 'confirm') askedAt.set(device, world.time.now());
      return { desired: await desiredOf({ store, now, director }, device), serverTime: Math.max(0, now()) };
    },
  });
  opened({ process, store, rollouts, link, now });
};

const errorOf = (fields: unknown): unknown =>
  typeof fields === 'object' && fields !== null && 'err' in fields ? fields.err : '';
