/**
 * The main job, end to end, with nothing pretended: a server and eight agents as processes of their own, CI with a key
 * of its own, a good release that reaches everyone, and a bad one that stops by itself. What is short is only the
 * waiting.
 */
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import { routes } from '#shared/api.ts';
import type { Id } from '#shared/ids.ts';
import type { Policy } from '#shared/policy.ts';
import { signerFromPem } from '#shared/trust/signers.ts';
import { type RolloutView } from '#shared/views.ts';
import { type Client, openClient } from '../client.ts';
import { exportAudit, verifyAuditFile } from '../commands/audit.ts';
import { type KeyKind, makeKey } from '../commands/key.ts';
import { createBundles, parseDescription, readDescription } from '../description.ts';
import { CliFailure, valueOf } from '../failure.ts';
import { checkBundle, publishRelease } from '../publish.ts';
import type { Processes } from './processes.ts';
import type { Snapshot, View } from './view.ts';

const SAMPLES = join(import.meta.dirname, '..', '..', 'firmware-samples');
const KEY_KIND: KeyKind = 'ed25519';
const PRODUCT = 'gateway';
const COMPATIBLE = 'gw-arm';
const DEVICES = Array.from({ length: 8 }, (_, index) => `gw-0${index + 1}`);
const CANARIES = DEVICES.slice(0, 2);
/** Two devices at risk at first, more as evidence of health arrives; two that fail are enough to halt. */
const POLICY: z.input<typeof Policy> = {
  judge: { rule: 'evidence', budget: 2 },
  gate: { soakMs: 500, successShare: 0.5 },
  deadlines: { acceptMs: 60_000, outcomeMs: 120_000 },
};
const POLL_MS = 250;
/** Of a machine that is slow and busy; then it is not going to work. */
const START_MS_MAX = 120_000;
const ROLLOUT_MS_MAX = 180_000;
const OUTCOMES: ReadonlySet<string> = new Set(['committed', 'reverted', 'failed']);
const OPEN_STATES = ['offered', 'fetching', 'installing', 'ready', 'trial'] as const;

/** What `sluice demo --json` prints last. */
type DemoResult = {
  rollouts: {
    release: string;
    state: string;
    devices: number;
    committed: number;
    reverted: number;
    failed: number;
    overdue: number;
    untouched: number;
  }[];
  audit: { entries: number; verified: boolean };
};
export type Stage = { folder: string; processes: Processes; view: View; signal: AbortSignal };
export type Finale = {
  result: DemoResult;
  url: string;
  adminToken: string;
  rollouts: RolloutView[];
  histories: { device: string; steps: string[] }[];
  receipts: number;
};

export const tellStory = async (stage: Stage): Promise<Finale> => {
  const { view } = stage;
  view.chapter('A server starts: its own keys, database, files and broker, in one process');
  const server = await startServer(stage);
  const admin = openClient({ url: server.httpUrl, token: server.adminToken });
  view.note(`It listens on ${server.httpUrl}`);

  view.chapter(`CI gets a key that may sign for "${PRODUCT}", and nothing else`);
  const ci = await prepareCi(stage, admin);

  view.chapter('Eight devices start and enrol, each with a key of its own and a single-use token');
  await startDevices(stage, admin, server);
  view.note(`${CANARIES.join(' and ')} are the canaries; all eight are in the cohort "everyone"`);

  view.chapter(
    'CI signs and publishes gateway 1.0.0. It goes to the canaries, then to everyone as evidence of health arrives',
  );
  const good = await rollOut(stage, admin, ci, 'good-1.0.0');
  view.chapter('CI publishes gateway 1.2.0, which crashes at start. No one knows yet');
  const bad = await rollOut(stage, admin, ci, 'crash-at-start');
  view.note(`The rollout ${bad.state} by itself: ${bad.explanation}`);

  view.chapter('What every device ran, from receipts that it signed itself; and the whole log, verified offline');
  const rollouts = [good, bad];
  const heard = receiptsOf(stage, admin, rollouts);
  const histories = await before(stage, heard, ROLLOUT_MS_MAX, 'The receipts of the devices');
  const file = join(stage.folder, 'audit.ndjson');
  await exportAudit(admin, file);
  const verified = await verifyAuditFile(file);
  if (!verified.ok) throw new CliFailure(`The audit log does not hold: line ${verified.line}: ${verified.why}`);
  return {
    result: { rollouts: rollouts.map(resultOf), audit: { entries: verified.entries, verified: true } },
    url: server.httpUrl,
    adminToken: server.adminToken,
    rollouts,
    histories,
    receipts: verified.receipts,
  };
};

const Ready = z.object({ event: z.literal('ready'), httpUrl: z.string(), mqttUrl: z.string(), adminToken: z.string() });

/** Whatever comes first: what is awaited, the end of a process, Ctrl-C, or too long a wait. */
const before = async <T>(stage: Stage, work: Promise<T>, millis: number, what: string): Promise<T> => {
  const quiet = new AbortController();
  const late = pause(millis, undefined, { signal: quiet.signal }).then(() => {
    throw new CliFailure(`${what} took longer than ${millis / 1000} s`);
  });
  const stopped = new Promise<never>((_, reject) => {
    const stop = (): void => reject(new CliFailure('stopped'));
    if (stage.signal.aborted) stop();
    stage.signal.addEventListener('abort', stop, { once: true, signal: quiet.signal });
  });
  try {
    return await Promise.race([work, late, stopped, stage.processes.failure]);
  } finally {
    late.catch(() => {});
    quiet.abort();
  }
};

const startServer = async (stage: Stage) => {
  const server = await stage.processes.start('server', [
    'serve',
    '--data-dir',
    join(stage.folder, 'server'),
    '--http-port',
    '0',
    '--mqtt-port',
    '0',
    '--log-pretty',
    'false',
  ]);
  return Ready.parse(await before(stage, server.ready, START_MS_MAX, 'The start of the server'));
};

type Ci = { client: Client; keyFile: string };

const prepareCi = async (stage: Stage, admin: Client): Promise<Ci> => {
  const key = await makeKey(join(stage.folder, 'ci.pem'), KEY_KIND);
  await admin.call(routes.productCreate, { body: { name: PRODUCT, keys: [key.publicPem] } });
  const { token } = await admin.call(routes.operatorCreate, { body: { name: 'ci', role: 'ci' } });
  await admin.call(routes.cohortCreate, { body: { name: 'canary', selector: 'ring=canary' } });
  await admin.call(routes.cohortCreate, { body: { name: 'everyone', selector: `compatible=${COMPATIBLE}` } });
  return { client: openClient({ url: admin.url, token }), keyFile: key.privateFile };
};

const startDevices = async (stage: Stage, admin: Client, server: z.infer<typeof Ready>): Promise<void> => {
  const ports = await freePorts(DEVICES.length);
  for (const [index, device] of DEVICES.entries()) {
    const tags = { site: 'lyon', ...(CANARIES.includes(device) ? { ring: 'canary' } : {}) };
    const { tokens } = await admin.call(routes.enrolmentTokenCreate, { body: { device, tags } });
    const settings = {
      'server-url': server.httpUrl,
      device,
      compatible: COMPATIBLE,
      token: tokens[0]!,
      'data-dir': join(stage.folder, device),
      'application-port': String(ports[index]),
      'heartbeat-ms': '1000',
      'log-pretty': 'false',
    };
    await stage.processes.start(device, [
      'agent',
      ...Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]),
    ]);
  }
  const connected = async (): Promise<void> => {
    for (;;) {
      const { items } = await admin.call(routes.deviceList, {});
      if (items.filter(({ online }) => online).length === DEVICES.length) return;
      await pause(POLL_MS, undefined, { signal: stage.signal });
    }
  };
  await before(stage, connected(), START_MS_MAX, 'The start of the devices');
};

/** For the applications: all are held open together, so that they are different. */
const freePorts = async (count: number): Promise<number[]> => {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      return server;
    }),
  );
  const ports = servers.map((server) => {
    const address = server.address();
    return address !== null && typeof address === 'object' ? address.port : 0;
  });
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
};

const rollOut = async (stage: Stage, admin: Client, ci: Ci, sample: string): Promise<RolloutView> => {
  const folder = join(SAMPLES, sample);
  const description = parseDescription(
    { ...(await readDescription(join(folder, 'bundle.yaml'))), compatible: COMPATIBLE },
    `${sample}/bundle.yaml`,
  );
  const [bundle] = await createBundles(description, { folder, out: `${stage.folder}/` });
  const signer = valueOf(signerFromPem(await readFile(ci.keyFile, 'utf8')), ci.keyFile);
  const { release } = await publishRelease(
    ci.client,
    { files: [bundle!.file], signer, now: Date.now },
    { checking: (file) => checkBundle(file), sending: (_, work) => work(() => {}), again: () => {} },
  );
  await ci.client.call(routes.releaseStage, { params: { release }, body: { channel: 'production' } });
  const cohorts = [{ cohort: 'canary' }, { cohort: 'everyone' }];
  const { id } = await admin.call(routes.rolloutCreate, { body: { release, cohorts, policy: POLICY } });
  const view = await before(stage, follow(stage, admin, id), ROLLOUT_MS_MAX, `The rollout of ${release}`);
  stage.view.settle();
  return view;
};

/** Until nothing moves any more: completed, or halted with every device that had begun at its outcome. */
const follow = async ({ view, signal }: Stage, admin: Client, rollout: Id): Promise<RolloutView> => {
  for (;;) {
    const snapshot = await look(admin, rollout);
    signal.throwIfAborted();
    view.show(snapshot);
    const { state, counts } = snapshot.rollout;
    const moving = OPEN_STATES.some((open) => counts[open] > 0);
    if (state === 'completed' || ((state === 'halted' || state === 'aborted') && !moving)) return snapshot.rollout;
    await pause(POLL_MS, undefined, { signal });
  }
};

const look = async (admin: Client, rollout: Id): Promise<Snapshot> => {
  const params = { rollout };
  const [devices, deployments, view] = await Promise.all([
    admin.call(routes.deviceList, {}),
    admin.call(routes.rolloutDeployments, { params }),
    admin.call(routes.rolloutShow, { params }),
  ]);
  return { devices: devices.items, deployments: deployments.items, rollout: view };
};

/** Of all devices, once each has signed what became of it: that it went back it may say a moment before its receipt. */
const receiptsOf = async ({ signal }: Stage, admin: Client, rollouts: RolloutView[]): Promise<Finale['histories']> => {
  const ended: Id[] = [];
  for (const { id } of rollouts) {
    const { items } = await admin.call(routes.rolloutDeployments, { params: { rollout: id } });
    for (const { device, state } of items) if (OUTCOMES.has(state)) ended.push(device);
  }
  const isHeard = ({ device, steps }: Finale['histories'][number]): boolean =>
    steps.length >= ended.filter((one) => one === device).length;
  for (;;) {
    const histories = [];
    for (const device of DEVICES) histories.push({ device, steps: await historyOf(admin, device) });
    if (histories.every(isHeard)) return histories;
    await pause(POLL_MS, undefined, { signal });
  }
};

/**
 * Oldest first: `committed gateway@1.0.0`, of those entries that are receipts whose signature the server checked again.
 */
const historyOf = async (admin: Client, device: string): Promise<string[]> => {
  const { entries } = await admin.call(routes.deviceHistory, { params: { device } });
  return entries
    .filter(({ outcome, verified }) => outcome !== null && verified === true)
    .map(({ outcome, release }) => `${outcome} ${release}`)
    .reverse();
};

const resultOf = ({ release, state, devices, counts, untouched }: RolloutView): DemoResult['rollouts'][number] => ({
  release,
  state,
  devices,
  committed: counts.committed,
  reverted: counts.reverted,
  failed: counts.failed,
  overdue: counts.overdue,
  untouched,
});
