/** HTTP: the API for operators and CI, what devices ask, metadata, files, metrics and health. */
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { localUrl } from './addresses.ts';
import type { Closers } from './closers.ts';
import type { ServerConfig } from './config.ts';
import { authenticateDevice } from './flow/device/authenticate-device.ts';
import { makeEnrolDevice } from './flow/device/enrol-device.ts';
import type { Ingest } from './flow/device/ingest.ts';
import type { LogKeeper } from './flow/device/keep-logs.ts';
import { newId } from './flow/new-id.ts';
import type { Rollouts } from './flow/rollout/rollouts.ts';
import { apiRoutes } from './http/api.ts';
import { type AppDeps, buildApp } from './http/app.ts';
import { closeApp } from './http/close-app.ts';
import { deviceApi } from './http/device.ts';
import { healthRoute } from './http/health.ts';
import { objectRoutes } from './http/objects.ts';
import { tufRoutes } from './http/tuf.ts';
import type { Data } from './open-data.ts';
import type { Devices } from './open-devices.ts';
import type { Upkeep } from './open-upkeep.ts';
import { explainListen } from './start-failure.ts';

type HttpDeps = {
  now: () => number;
  log: Logger;
  tls: AppDeps['tls'];
  version: string;
  data: Data;
  devices: Devices;
  rollouts: Rollouts;
  ingest: Ingest;
  logs: LogKeeper;
  upkeep: Upkeep;
  mqttUrl: string;
};

/** Gives the address for someone on this machine too. */
export const openHttp = async (
  config: ServerConfig,
  deps: HttpDeps,
  closers: Closers,
): Promise<{ app: FastifyInstance; httpUrl: string }> => {
  const { now, data, devices } = deps;
  const { findDevice, blocks } = devices;
  const app = await buildApp({
    version: deps.version,
    logger: requestLog(config.log.level, deps.log),
    tls: deps.tls,
    trustProxy: config.http.trustProxy,
    findOperator: (tokenSha256) => data.store.findOperator(tokenSha256),
    deviceHeard: devices.sharedKeys.heard,
    verifyDevice: (login) => blocks.checkPass(login) ?? authenticateDevice({ findDevice, now }, login),
  });
  blocks.answerWith(app);
  closers.add(() => closeApp(app));
  addRoutes(app, config, deps);
  const { host, port } = config.http;
  await app.listen({ host, port }).catch((error: unknown) => {
    throw explainListen(error, 'HTTP', { host, port });
  });
  return { app, httpUrl: localUrl(deps.tls === undefined ? 'http' : 'https', host, portOf(app)) };
};

const addRoutes = (app: FastifyInstance, config: ServerConfig, deps: HttpDeps): void => {
  const { now, version, devices, rollouts, ingest, logs, upkeep, mqttUrl } = deps;
  const { keyring, repository, store, objects } = deps.data;
  const { rootSha256 } = repository;
  const { link } = devices.connections;
  devices.metrics.serve(app);
  healthRoute(app, { store, now });
  apiRoutes(app, {
    store,
    now,
    link,
    repository,
    objects,
    ...upkeep,
    rollouts,
    rootSha256,
    version,
    newId: () => newId('ro-'),
    channels: config.channels,
    log: keyring.log,
  });
  const enrol = makeEnrolDevice({ store, link, ingest, now, rootSha256, mqttUrl });
  deviceApi(app, { store, objects, now, director: keyring.director, enrol, logs, spreadMs: devices.spreadMs });
  const open = config.artifacts.public;
  tufRoutes(app, { repository, open });
  objectRoutes(app, { objects, store, open });
};

/**
 * fastify writes two lines a request at `info`: a fleet that polls would drown everything else, so they are for
 * `debug`.
 */
const requestLog = (level: ServerConfig['log']['level'], log: Logger): Logger =>
  ['debug', 'trace', 'silent'].includes(level) ? log : log.child({}, { level: 'warn' });

const portOf = (app: FastifyInstance): number => {
  const address = app.server.address();
  if (address === null || typeof address === 'string') throw new Error('HTTP listens on no port');
  return address.port;
};
