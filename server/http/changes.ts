import type { FastifyInstance } from 'fastify';
import { routes } from '#shared/api.ts';
import { releaseRef } from '#shared/ids.ts';
import { accept } from '#shared/problems.ts';
import { diffReleases, findChange } from '../flow/release/find-change.ts';
import type { Store } from '../store/store.ts';
import { handle } from './app.ts';
import { pageOf } from './page.ts';
import { parseReleaseRef } from './releases.ts';

export const changeRoutes = (app: FastifyInstance, { store }: { store: Store }): void => {
  handle(app, routes.changeShow, async ({ params }) => {
    const found = await findChange(store, params.change);
    if (!found.ok) return found;
    const { change, releases, running, fleet } = found.value;
    return accept({
      change,
      releases: releases.map(({ product, version, progress, bundles }) => ({
        release: releaseRef(product, version),
        state: progress.state,
        channels: progress.state === 'staged' ? progress.channels : [],
        bundles,
      })),
      running,
      fleet,
      share: fleet === 0 ? 0 : running / fleet,
    });
  });
  handle(app, routes.changeDevices, async ({ params, query }) => {
    const devices = await store.listDevicesWithChange(params.change, query);
    return accept(
      pageOf(
        devices,
        query.limit,
        ({ device }) => device,
        ({ device, product, version, compatible, online }) => ({
          device,
          release: releaseRef(product, version),
          compatible,
          online,
        }),
      ),
    );
  });
  handle(app, routes.releaseDiff, async ({ params }) => {
    const from = parseReleaseRef(params.release);
    if (!from.ok) return from;
    const to = parseReleaseRef(params.other);
    if (!to.ok) return to;
    const diff = await diffReleases(store, from.value, to.value);
    return diff.ok ? accept({ from: params.release, to: params.other, ...diff.value }) : diff;
  });
};
