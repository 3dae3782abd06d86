/**
 * The server: the order in which it opens. Each part knows only those before it, and everything opened here is closed
 * here, in the opposite order.
 */
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { readVersion } from '#shared/version.ts';
import { announce } from './announce.ts';
import { catchUp } from './catch-up.ts';
import { type Closers, makeClosers } from './closers.ts';
import { runServer } from './command-line.ts';
import type { ServerConfig } from './config.ts';
import { makeLog } from './log.ts';
import { openBroker } from './open-broker.ts';
import { openData } from './open-data.ts';
import { openDevices } from './open-devices.ts';
import { openHttp } from './open-http.ts';
import { openIngest } from './open-ingest.ts';
import { openRollouts } from './open-rollouts.ts';
import { openUpkeep } from './open-upkeep.ts';
import { openSteadyClock, type SteadyClock } from './steady-clock.ts';
import { openTls } from './tls-files.ts';

export type RunningServer = {
  httpUrl: string;
  /** What enrolling devices are told. */
  mqttUrl: string;
  /** The administrator's token when it was made just now, at the first start; it is not shown again. */
  adminToken: string | null;
  /** Takes nothing new, writes what it has taken, and closes everything. Connections are cut after `config.stopMs`. */
  stop(): Promise<void>;
};

/**
 * Starts everything, or nothing: what was opened is closed again when a later part fails. Throws `StartFailure` with
 * words for people when a port is taken, the data folder is in use or cannot be written, or TLS files cannot be read.
 */
export const startServer = async (
  config: ServerConfig,
  options: { now?: () => number; clock?: SteadyClock } = {},
): Promise<RunningServer> => {
  const closers = makeClosers();
  try {
    const { now, clock = now === undefined ? openSteadyClock() : openSteadyClock(now, now) } = options;
    return await openAll(config, clock, closers);
  } catch (error) {
    await closers.closeAll(() => undefined);
    throw error;
  }
};

const openAll = async (config: ServerConfig, clock: SteadyClock, closers: Closers): Promise<RunningServer> => {
  const { now } = clock;
  const log = await makeLog(config.log);
  const tls = openTls(config.tls, now(), log);
  const version = readVersion();
  const data = await openData(config.dataDir, now, closers);
  const { keyring, store, adminToken } = data;
  const { director } = keyring;
  await catchUp({ store, now, log }, config.restartGraceMs, closers);

  const devices = await openDevices(config.mqtt, { store, now, log, version }, closers);
  const { connections, metrics } = devices;
  const rollouts = openRollouts({ store, clock, log, director, link: connections.link }, closers);
  const { ingest, logs } = openIngest({ store, now, log, rollouts }, devices, closers);
  const mqttUrl = await openBroker(config.mqtt, { tls, store, now, log, director, devices, ingest }, closers);

  const upkeep = openUpkeep(config, data, { now, log, metrics }, closers);
  const parts = { now, log, tls, version, data, devices, rollouts, ingest, logs, upkeep, mqttUrl };
  const { app, httpUrl } = await openHttp(config, parts, closers);

  announce(log, config, keyring, { httpUrl, mqttUrl });
  return { httpUrl, mqttUrl, adminToken, stop: () => stop(app, config.stopMs, log, closers) };
};

const stop = async (app: FastifyInstance, stopMs: number, log: Logger, closers: Closers): Promise<void> => {
  const cut = setTimeout(() => {
    log.warn({ event: 'stop-cut' }, 'requests took too long to end, and were cut off');
    app.server.closeAllConnections();
  }, stopMs);
  try {
    await closers.closeAll((error) =>
      log.error({ event: 'stop-failed', err: error }, 'a part of the server could not be closed properly'),
    );
  } finally {
    clearTimeout(cut);
  }
  log.info({ event: 'server-stopped' }, 'stopped');
};

if (import.meta.main) await runServer(process.argv.slice(2), startServer);
