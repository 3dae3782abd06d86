/**
 * Figures for Prometheus at `/metrics`, for anyone who may read. docs/operations.md says what each means; a test holds
 * it to that.
 */
import type { FastifyInstance } from 'fastify';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Observer } from '../flow/device/observer.ts';
import type { Store } from '../store/store.ts';

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
/** Rollouts whose deployments are counted at each scrape: the newest. */
const ROLLOUTS_MAX = 50;
const OUTBOX_COUNTED_MAX = 10_000;

export type Metrics = {
  observer: Observer;
  /** Times requests and registers `/metrics`; before any other route is registered. */
  serve(app: FastifyInstance): void;
  housekeeping(task: string, outcome: 'done' | 'failed'): void;
  miscounted(): void;
};

type MetricsDeps = {
  store: Pick<Store, 'listRollouts' | 'countDeployments' | 'countDevices' | 'countDrifted' | 'takeOutbox'>;
  connectedDevices: () => number;
  version: string;
};

export const makeMetrics = (deps: MetricsDeps): Metrics => {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const counter = <L extends string>(name: string, help: string, labelNames: readonly L[] = []) =>
    new Counter({ name, help, labelNames, registers });
  const histogram = <L extends string>(name: string, help: string, labelNames: readonly L[]) =>
    new Histogram({ name, help, labelNames, registers, buckets: SECONDS });

  const messages = counter('sluice_messages_total', 'Messages of devices', ['kind', 'outcome']);
  const ingest = histogram('sluice_ingest_seconds', 'From the first message of a batch until it was committed', [
    'kind',
  ]);
  const refusals = counter('sluice_mqtt_refused_total', 'What the broker refused', ['why']);
  const receipts = counter('sluice_receipts_refused_total', 'Receipts that do not verify or do not fit');
  const takeovers = counter('sluice_mqtt_takeovers_total', 'Connections that took over from one of the same device');
  const sharedKeys = counter('sluice_shared_keys_total', 'How often two devices were found to use one key');
  const housekeeping = counter('sluice_housekeeping_total', 'Tasks done now and then', ['task', 'outcome']);
  const miscounts = counter('sluice_miscounts_total', 'Rollouts whose counters are not what the rows say: a bug');
  const requests = histogram('sluice_http_request_seconds', 'HTTP requests', ['method', 'route', 'status']);
  readFromStore(deps, registers);

  return {
    observer: {
      message: (kind, outcome, count = 1) => {
        if (count > 0) messages.inc({ kind, outcome }, count);
      },
      ingested: (kind, ms) => ingest.observe({ kind }, ms / 1000),
      refused: (why) => refusals.inc({ why }),
      receiptRefused: () => receipts.inc(),
      takenOver: () => takeovers.inc(),
      keyShared: () => sharedKeys.inc(),
    },
    housekeeping: (task, outcome) => housekeeping.inc({ task, outcome }),
    miscounted: () => miscounts.inc(),
    serve: (app) => {
      app.addHook('onResponse', async (request, reply) => {
        // The route, not the URL: labels must be few.
        const route = request.routeOptions.url ?? 'unknown';
        requests.observe({ method: request.method, route, status: String(reply.statusCode) }, reply.elapsedTime / 1000);
      });
      const config = { roles: ['admin', 'operator', 'ci', 'viewer'] as const };
      app.get('/metrics', { config, schema: { hide: true } }, async (_request, reply) =>
        reply
          .type(registry.contentType)
          .header('cache-control', 'no-store')
          .send(await registry.metrics()),
      );
    },
  };
};

/** Gauges that are read when Prometheus asks. */
const readFromStore = ({ store, connectedDevices, version }: MetricsDeps, registers: Registry[]): void => {
  const gauge = <L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[],
    read: (g: Gauge<L>) => void | Promise<void>,
  ) => {
    const made: Gauge<L> = new Gauge({
      name,
      help,
      labelNames,
      registers,
      collect: async () => {
        made.reset();
        await read(made);
      },
    });
  };
  gauge('sluice_info', 'Always 1; the version is a label', ['version'], (g) => g.set({ version }, 1));
  gauge('sluice_connected_devices', 'Devices connected over MQTT', [], (g) => g.set(connectedDevices()));
  gauge('sluice_devices', 'Devices known', ['state'], async (g) => {
    for (const { state, devices } of await store.countDevices()) g.inc({ state }, devices);
  });
  gauge('sluice_rollouts', `The newest ${ROLLOUTS_MAX} rollouts by state`, ['state'], async (g) => {
    for (const { progress } of await store.listRollouts({ limit: ROLLOUTS_MAX })) g.inc({ state: progress.state });
  });
  gauge('sluice_deployments', 'Deployments of those rollouts that are not over', ['state'], async (g) => {
    for (const { plan, progress } of await store.listRollouts({ limit: ROLLOUTS_MAX })) {
      if (progress.state === 'completed' || progress.state === 'aborted') continue;
      for (const { state, devices } of await store.countDeployments(plan.id)) g.inc({ state }, devices);
    }
  });
  gauge('sluice_overdue_deployments', 'The overdue of those rollouts', ['class', 'reached'], async (g) => {
    for (const { plan, progress } of await store.listRollouts({ limit: ROLLOUTS_MAX })) {
      if (progress.state === 'completed' || progress.state === 'aborted') continue;
      for (const { overdue, reached, devices } of await store.countDeployments(plan.id))
        if (overdue !== null) g.inc({ class: overdue, reached: reached ?? '' }, devices);
    }
  });
  gauge('sluice_drifted_devices', 'Devices that run what no one told them to run', [], async (g) => {
    g.set(await store.countDrifted());
  });
  gauge('sluice_outbox_items', 'Effects recorded and not performed yet', [], async (g) => {
    g.set((await store.takeOutbox(OUTBOX_COUNTED_MAX)).length);
  });
};
