import type { FastifyInstance } from 'fastify';
import { routes } from '#shared/api.ts';
import type { Sha256 } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { acceptDevice, createEnrolmentTokens, rejectDevice, tagDevice } from '../flow/device/admit-device.ts';
import { deviceHistory } from '../flow/device/device-history.ts';
import type { DeviceLink } from '../flow/device/device-link.ts';
import { listLogs } from '../flow/device/keep-logs.ts';
import { listDevices } from '../flow/rollout/resolve-cohort.ts';
import type { DeviceRecord } from '../store/devices.ts';
import type { Store } from '../store/store.ts';
import { handle } from './app.ts';
import { pageOf } from './page.ts';
import { deviceView } from './views.ts';

export const deviceRoutes = (
  app: FastifyInstance,
  deps: { store: Store; link: DeviceLink; rootSha256: Sha256; now: () => number },
): void => {
  handle(app, routes.deviceList, async ({ query }) => {
    const devices = await listDevices(deps.store, query, query);
    return devices.ok ? accept(pageOf(devices.value, query.limit, (device) => device.id, deviceView)) : devices;
  });
  handle(app, routes.deviceShow, async ({ params }) => {
    const device = await deps.store.getDevice(params.device);
    return device === undefined
      ? refuse('not-found', `there is no device ${params.device}`)
      : accept(deviceView(device));
  });
  handle(app, routes.deviceHistory, async ({ params, query }) => deviceHistory(deps, params.device, query));
  handle(app, routes.deviceLogs, async ({ params, query }) => listLogs(deps, params.device, query));
  handle(app, routes.deviceAccept, async ({ params, who }) =>
    viewOf(await acceptDevice(deps, { device: params.device, by: who.name })),
  );
  handle(app, routes.deviceReject, async ({ params, who }) =>
    viewOf(await rejectDevice(deps, { device: params.device, by: who.name })),
  );
  handle(app, routes.deviceTag, async ({ params, body, who }) =>
    viewOf(await tagDevice(deps, { device: params.device, tags: body.tags, by: who.name })),
  );
  handle(app, routes.enrolmentTokenCreate, async ({ body, who }) =>
    createEnrolmentTokens(deps, { ...body, by: who.name }),
  );
};

const viewOf = (device: Result<DeviceRecord>) => (device.ok ? accept(deviceView(device.value)) : device);
