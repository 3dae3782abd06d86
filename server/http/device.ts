/** What device agents call: enrol, and ask what to run. Metadata and objects are in tuf.ts and objects.ts. */
import type { FastifyInstance } from 'fastify';
import { deviceRoutes } from '#shared/device-api.ts';
import { accept } from '#shared/problems.ts';
import { type DesiredDeps, desiredOf } from '../flow/device/desired.ts';
import { type makeEnrolDevice, makeEnrolmentGate } from '../flow/device/enrol-device.ts';
import type { LogKeeper } from '../flow/device/keep-logs.ts';
import { findPack } from '../flow/release/pack-targets.ts';
import type { Store } from '../store/store.ts';
import { handle } from './app.ts';

export const deviceApi = (
  app: FastifyInstance,
  deps: DesiredDeps &
    Parameters<typeof findPack>[0] & { store: Pick<Store, 'noteRefusal'> } & {
      enrol: ReturnType<typeof makeEnrolDevice>;
      logs: LogKeeper;
      spreadMs: () => number | undefined;
    },
): void => {
  handle(app, deviceRoutes.enrol, ({ body }) => deps.enrol(body), makeEnrolmentGate());
  handle(app, deviceRoutes.refusal, async ({ body, who }) => {
    await deps.store.noteRefusal(who.device, body.code);
    return accept({});
  });
  handle(app, deviceRoutes.pack, async ({ query }) => accept({ pack: await findPack(deps, query) }));
  handle(app, deviceRoutes.logs, async ({ body, who }) => deps.logs.keep(who.device, body.pieces));
  handle(app, deviceRoutes.desired, async ({ who }) => {
    const spreadMs = deps.spreadMs();
    const desired = await desiredOf(deps, who.device);
    return accept({ desired, serverTime: deps.now(), ...(spreadMs === undefined ? {} : { spreadMs }) });
  });
};
