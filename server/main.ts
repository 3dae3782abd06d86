/**
 * The server: the one place that constructs. Everything below is handed what it uses; everything opened here is closed
 * here, in the opposite order.
 */
import { readFileSync } from 'node:fs';
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import type { Id } from '#shared/ids.ts';
import { machineUptime } from '#shared/machine-uptime.ts';
import { MqttUrl } from '#shared/mqtt-url.ts';
import { isLoopback, localUrl, networkUrl } from './addresses.ts';
import { runServer } from './command-line.ts';
import type { ServerConfig } from './config.ts';
import { inDataFolder, takeDataFolder, writeAdminToken } from './data-folder.ts';
import { type DeviceBlocks, openDeviceBlocks } from './device-blocks.ts';
import { auditLine, BY_SERVER } from './domain/audit.ts';
import { authenticateDevice } from './flow/device/authenticate-device.ts';
import { makeEnrolDevice } from './flow/device/enrol-device.ts';
import { type FindDevice, gatherDevices } from './flow/device/find-device.ts';
import { makeGreeter } from './flow/device/greet-device.ts';
import { type Ingest, makeIngest } from './flow/device/ingest.ts';
import { type LogKeeper, makeLogKeeper } from './flow/device/keep-logs.ts';
import { type SharedKeys, watchSharedKeys } from './flow/device/shared-keys.ts';
import { makeSpread } from './flow/device/spread.ts';
import { newId } from './flow/new-id.ts';
import { ensureAdministrator } from './flow/operators.ts';
import { openUploads } from './flow/release/accept-upload.ts';
import { reconcileDelegations } from './flow/release/create-product.ts';
import { type Packs, startPacks } from './flow/release/packs.ts';
import { grantGrace, noteAlive } from './flow/rollout/grant-grace.ts';
import { type Rollouts, startRollouts } from './flow/rollout/rollouts.ts';
import { followClock } from './flow/time/follow-clock.ts';
import { startHousekeeping } from './housekeeping.ts';
import { apiRoutes } from './http/api.ts';
import { buildApp } from './http/app.ts';
import { closeApp } from './http/close-app.ts';
import { deviceApi } from './http/device.ts';
import { healthRoute } from './http/health.ts';
import { type Metrics, makeMetrics } from './http/metrics.ts';
import { objectRoutes } from './http/objects.ts';
import { tufRoutes } from './http/tuf.ts';
import { makeLog } from './log.ts';
import { type Broker, startBroker } from './mqtt/broker.ts';
import { type Connections, makeConnections } from './mqtt/connections.ts';
import { cannotStart, explainListen, StartFailure } from './start-failure.ts';
import { openSteadyClock, type SteadyClock } from './steady-clock.ts';
import { type Objects, openObjects } from './store/objects.ts';
import { openSqliteStore } from './store/sqlite/open.ts';
import type { Store } from './store/store.ts';
import { readTlsFiles } from './tls-files.ts';
import { type Keyring, openKeyring } from './trust/keyring.ts';
import { openRepository, type Repository } from './trust/repository.ts';

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
 * words for people when a port is taken, the data folder is in use or can not be written, or TLS files can not be read.
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

type Closers = { add(close: () => unknown): void; closeAll(failed: (error: unknown) => void): Promise<void> };
/** What is open, to be closed last first. One that fails does not keep the others open. */
const makeClosers = (): Closers => {
  const open: (() => unknown)[] = [];
  return {
    add: (close) => void open.push(close),
    async closeAll(failed) {
      for (let close = open.pop(); close !== undefined; close = open.pop()) {
        try {
          await close();
        } catch (error) {
          failed(error);
        }
      }
    },
  };
};

type Parts = {
  config: ServerConfig;
  clock: SteadyClock;
  /** What devices are told of it. */
  spreadMs: () => number | undefined;
  now: () => number;
  log: Logger;
  version: string;
  tls: { key: string; cert: string } | undefined;
  keyring: Keyring;
  repository: Repository;
  store: Store;
  objects: Objects;
  connections: Connections;
  findDevice: FindDevice;
  metrics: Metrics;
  blocks: DeviceBlocks;
  sharedKeys: SharedKeys;
};

const openAll = async (config: ServerConfig, clock: SteadyClock, closers: Closers): Promise<RunningServer> => {
  const { now } = clock;
  const log = await makeLog(config.log);
  const tls = readTls(config, now(), log);
  const version = readVersion();
  const folder = inDataFolder(config.dataDir);
  const lock = takeDataFolder(config.dataDir);
  closers.add(() => lock.release());
  const keyring = await openKeyring(folder.keys).catch(cannotStart('the keys can not be used'));
  const repository = await openRepository({ dir: folder.repository, keyring, now }).catch(
    cannotStart(`the metadata in ${folder.repository} cannot be used`),
  );
  const store = await openSqliteStore(folder.database).catch(cannotStart(folder.database));
  closers.add(() => store.close());
  const objects = await openObjects(config.dataDir).catch(cannotStart('the files of releases cannot be kept'));
  const adminToken = await initialise({ config, now, store, repository });
  // Nobody is connected yet, whatever the last process wrote, and nobody is connected any more when this one has ended.
  await store.setAllOffline();
  closers.add(() => store.setAllOffline());
  // Before anything is judged. Devices that were on trial while nobody listened are late, not silent.
  const grace = await grantGrace({ store, now, uptime: machineUptime }, config.restartGraceMs);
  if (grace.stepMs !== 0) log.warn({ event: 'clock-set', ...grace }, CLOCK_SET);
  if (grace.deployments > 0)
    log.info({ event: 'grace-granted', ...grace }, 'deadlines were moved: the server was away');
  closers.add(() => noteAlive({ store, now, uptime: machineUptime }));

  const spreadMs = await makeSpread({
    store,
    connectsPerSecond: config.mqtt.connectsPerSecond,
    onError: (error) => log.error({ event: 'devices-not-counted', err: error }, 'the devices could not be counted'),
  });
  const connected = makeConnections(spreadMs);
  const metrics = makeMetrics({ store, connectedDevices: () => connected.count(), version });
  const sharedKeys = watchSharedKeys({ store, now, observer: metrics.observer, log });
  closers.add(() => sharedKeys.stop());
  const connections = forgettingBoots(connected, sharedKeys);
  const findDevice = gatherDevices(store);
  const opened = { config, spreadMs, clock, now, log, version, tls, keyring, repository, store, objects };
  const { observer } = metrics;
  const { blockBytesPerSecond: bytesPerSecond } = config.mqtt;
  const blocks = openDeviceBlocks({ bytesPerSecond, connections, findDevice, observer, log });
  const parts: Parts = { ...opened, connections, findDevice, metrics, blocks, sharedKeys };
  const rollouts = openRollouts(parts, closers);
  const logs = makeLogKeeper({ store, now, log });
  closers.add(() => logs.stop());
  const ingest = openIngest(parts, rollouts, logs, closers);
  const broker = await openBroker(parts, ingest, closers);
  const { http, mqtt } = config;
  const scheme = tls === undefined ? 'mqtt' : 'mqtts';
  const mqttUrl = mqtt.publicUrl ?? networkUrl(scheme, mqtt.host, broker.port);
  if (!MqttUrl.safeParse(mqttUrl).success)
    throw new StartFailure(
      `devices can not use ${mqttUrl} as the address of MQTT: name another with --mqtt-public-url`,
    );
  const app = await openHttp(parts, { rollouts, ingest, logs, mqttUrl }, closers);
  const httpUrl = localUrl(tls === undefined ? 'http' : 'https', http.host, portOf(app));

  announce(parts, httpUrl, mqttUrl);
  return { httpUrl, mqttUrl, adminToken, stop: () => stop(parts, app, closers) };
};

/** A device that is shut out or replaced: the next to speak under its id is heard for the first time. */
const forgettingBoots = (connections: Connections, { forget }: SharedKeys): Connections => ({
  ...connections,
  link: {
    ...connections.link,
    disconnect: (device) => {
      connections.link.disconnect(device);
      forget(device);
    },
  },
});

const readVersion = (): string => {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  const manifest: unknown = JSON.parse(text);
  return typeof manifest === 'object' && manifest !== null && 'version' in manifest ? String(manifest.version) : '?';
};

const readTls = ({ tls }: ServerConfig, now: number, log: Logger): Parts['tls'] => {
  if (tls === undefined) return undefined;
  const { cert, key, warnings } = readTlsFiles(tls, now);
  for (const warning of warnings) log.warn({ event: 'tls-certificate' }, warning);
  return { cert, key };
};

/** What the first start does, and what a crash in the middle of something left to do. */
const initialise = async (parts: Pick<Parts, 'config' | 'now' | 'store' | 'repository'>): Promise<string | null> => {
  const { config, now, store, repository } = parts;
  if ((await store.getAuditHead()).size === 0) {
    const { rootSha256 } = repository;
    await store.appendAudit([auditLine({ at: now(), by: BY_SERVER, kind: 'server-initialised', rootSha256 })]);
  }
  await reconcileDelegations({ store, repository });
  const adminToken = await ensureAdministrator({ store, now });
  if (adminToken !== null) await writeAdminToken(config.dataDir, adminToken);
  return adminToken;
};

const CLOCK_SET = 'the clock of this machine was set; what rollouts count from moved along';

const openRollouts = ({ store, clock, now, log, keyring, connections }: Parts, closers: Closers): Rollouts => {
  const rollouts = startRollouts({
    store,
    now,
    director: keyring.director,
    link: connections.link,
    followClock: async () => {
      const moved = await followClock({ store, clock });
      if (moved !== undefined) log.warn({ event: 'clock-set', ...moved }, CLOCK_SET);
    },
    onError: (error, rolloutId) =>
      log.error({ event: 'rollout-failed', rolloutId, err: error }, 'a rollout could not go on; it is tried again'),
  });
  closers.add(() => rollouts.stop());
  return rollouts;
};

const openIngest = (
  { store, now, log, connections, metrics, sharedKeys }: Parts,
  rollouts: Rollouts,
  logs: LogKeeper,
  closers: Closers,
): Ingest => {
  const { link } = connections;
  const { observer } = metrics;
  const keepLog = logs.overMqtt((device, ack) => connections.acknowledgeLog(device, ack));
  const { heard } = sharedKeys;
  const wake = (rollout: Id): void => rollouts.wake(rollout);
  const ingest = makeIngest({ store, link, now, log, observer, keepLog, heard, wake });
  closers.add(() => ingest.stop());
  return ingest;
};

const openBroker = async (parts: Parts, ingest: Ingest, closers: Closers): Promise<Broker> => {
  const { config, store, now, log, connections, findDevice, metrics, tls, keyring, blocks } = parts;
  const { link } = connections;
  const { observer } = metrics;
  const greeter = makeGreeter({ store, link, now, log, director: keyring.director });
  closers.add(() => greeter.stop());
  const { host, port, connectionsMax, connectionsPerAddressMax, messagesPerSecond, messagesBurst } = config.mqtt;
  const rate = { burst: messagesBurst, perSecond: messagesPerSecond };
  const broker = await startBroker(
    {
      host,
      port,
      tls,
      connectionsMax,
      connectionsPerAddressMax,
      rate,
      blocksPerSecond: blocks.perSecond,
      log,
      observer,
    },
    connections,
    {
      authenticate: (login) => authenticateDevice({ findDevice, now }, login),
      presence: (device, online) => {
        if (!online) blocks.forget(device);
        ingest.presence(device, online);
      },
      wantsDesired: (device) => greeter.greet(device),
      message: (device, channel, payload, live) =>
        channel === 'block' ? blocks.receive(device, payload) : ingest.message(device, channel, payload, live),
    },
  ).catch((error: unknown) => {
    throw explainListen(error, 'MQTT', { host, port });
  });
  closers.add(() => broker.stop());
  return broker;
};

const openPacks = ({ config, store, objects, now, log }: Parts, closers: Closers): Packs => {
  const packs = startPacks({
    store,
    objects,
    dataDir: config.dataDir,
    now,
    bytesMax: config.packs.bytesMax,
    report: {
      made: (pack) => log.info({ event: 'pack-made', ...pack }, 'a pack was made'),
      failed: (error) => log.error({ event: 'pack-failed', err: error }, 'a pack was not made; devices fetch chunks'),
    },
  });
  closers.add(() => packs.stop());
  return packs;
};

const openHttp = async (
  parts: Parts,
  { rollouts, ingest, logs, mqttUrl }: { rollouts: Rollouts; ingest: Ingest; logs: LogKeeper; mqttUrl: string },
  closers: Closers,
): Promise<FastifyInstance> => {
  const { config, store, now, log, keyring, repository, objects, connections, findDevice, metrics, version, blocks } =
    parts;
  const { sharedKeys } = parts;
  const uploads = openUploads({ objects, now: () => performance.now() });
  const packs = openPacks(parts, closers);
  const housekeeping = startHousekeeping({
    store,
    repository,
    objects,
    uploads,
    packs,
    log: keyring.log,
    now,
    uptime: machineUptime,
    decisionsKeptDays: config.decisions.keptDays,
    report: {
      done: (task) => metrics.housekeeping(task, 'done'),
      failed: (task, error) => {
        metrics.housekeeping(task, 'failed');
        log.error({ event: 'housekeeping-failed', task, err: error }, `${task} failed; it is tried again later`);
      },
      miscounted: (rolloutId) => {
        metrics.miscounted();
        log.error({ event: 'miscounted', rolloutId }, 'the counters of a rollout are not what its rows say: a bug');
      },
    },
  });
  closers.add(() => housekeeping.stop());

  const app = await buildApp({
    version,
    logger: requestLog(parts),
    tls: parts.tls,
    trustProxy: config.http.trustProxy,
    findOperator: (tokenSha256) => store.findOperator(tokenSha256),
    deviceHeard: sharedKeys.heard,
    verifyDevice: (login) => blocks.checkPass(login) ?? authenticateDevice({ findDevice, now }, login),
  });
  blocks.answerWith(app);
  closers.add(() => closeApp(app));
  metrics.serve(app);
  healthRoute(app, { store, now });
  const { rootSha256 } = repository;
  const { link } = connections;
  const shared = {
    store,
    now,
    link,
    repository,
    objects,
    uploads,
    packs,
    rollouts,
    rootSha256,
    version,
    newId: () => newId('ro-'),
  };
  apiRoutes(app, { ...shared, channels: config.channels, log: keyring.log });
  const enrol = makeEnrolDevice({ store, link, ingest, now, rootSha256, mqttUrl });
  deviceApi(app, { store, objects, now, director: keyring.director, enrol, logs, spreadMs: parts.spreadMs });
  tufRoutes(app, { repository, open: config.artifacts.public });
  objectRoutes(app, { objects, store, open: config.artifacts.public });
  const { host, port } = config.http;
  await app.listen({ host, port }).catch((error: unknown) => {
    throw explainListen(error, 'HTTP', { host, port });
  });
  return app;
};

/** fastify writes two lines a request at `info`: a fleet that polls would drown everything else, so they are for `debug`. */
const requestLog = ({ config, log }: Parts): Logger =>
  ['debug', 'trace', 'silent'].includes(config.log.level) ? log : log.child({}, { level: 'warn' });

const portOf = (app: FastifyInstance): number => {
  const address = app.server.address();
  if (address === null || typeof address === 'string') throw new Error('HTTP listens on no port');
  return address.port;
};

/** What somebody who runs this should know, at every start. */
const announce = ({ config, log, keyring, tls }: Parts, httpUrl: string, mqttUrl: string): void => {
  log.info({ event: 'server-started', httpUrl, mqttUrl, dataDir: config.dataDir }, `listening: ${httpUrl}, ${mqttUrl}`);
  if (keyring.root !== null || keyring.targets !== null) {
    const folder = inDataFolder(config.dataDir).keys;
    log.warn(
      { event: 'keys-online', folder },
      `ALL keys, root and targets too, lie in ${folder}: whoever gets that folder can sign for this fleet (docs/operations.md)`,
    );
  }
  const open = [config.http.host, config.mqtt.host].filter((host) => !isLoopback(host));
  if (open.length > 0 && tls === undefined) {
    log.warn(
      { event: 'no-tls', hosts: open },
      'listening beyond this machine without TLS: tokens and firmware cross the network in clear (docs/operations.md)',
    );
  }
};

const stop = async ({ config, log }: Parts, app: FastifyInstance, closers: Closers): Promise<void> => {
  const cut = setTimeout(() => {
    log.warn({ event: 'stop-cut' }, 'requests took too long to end, and were cut off');
    app.server.closeAllConnections();
  }, config.stopMs);
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
