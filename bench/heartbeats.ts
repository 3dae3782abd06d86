/**
 * How many heartbeats a second get through broker and ingest into SQLite, with real MQTT connections from a process of
 * their own, against two floors measured in the same run: aedes alone, which throws them away, and the store alone.
 * Heartbeats of one device are coalesced, so fewer rows are written than heartbeats arrive: both are shown.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Aedes } from 'aedes';
import mqtt, { type MqttClient } from 'mqtt';
import { z } from 'zod';
import { loadConfig } from '#server/config.ts';
import { startServer } from '#server/main.ts';
import { openSqliteStore } from '#server/store/sqlite/open.ts';
import type { Store } from '#server/store/store.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import type { Heartbeat } from '#shared/messages.ts';
import { up } from '#shared/topics.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { makeLogin } from '#shared/trust/login.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';
import { type BenchOptions, type Figure, figure } from './figure.ts';

export const name = 'heartbeats';

const DEVICES = 500;
/** Offered heartbeats a second, in turn, until they are no longer sustained. */
const RATES = [20_000, 40_000, 80_000, 120_000];
const WARM_MS = 500;
const TICK_MS = 10;
/** What still counts as sustained: this share of the offered, and written within this time on average. */
const SUSTAINED_SHARE = 0.95;
const WRITTEN_MS_MAX = 1_000;

/**
 * For each receiver the highest rate sustained; and its CPU for a message, at the highest rate that both sustain, so
 * that the same work is compared: that ratio is the steadier one, since a busy machine takes from rates what it likes.
 */
export const run = async ({ measureMs }: BenchOptions): Promise<Figure[]> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-bench-'));
  try {
    const pem = generatePrivateKey('ed25519');
    const rowsAlone = await prepare(dir, pem, measureMs);
    const aedes = await climb('aedes', dir, pem, measureMs);
    const sluice = await climb('sluice', dir, pem, measureMs);
    const [best, floor] = [sluice.at(-1)!, aedes.at(-1)!];
    const shared = Math.min(sluice.length, aedes.length) - 1;
    const [cpu, cpuFloor] = [sluice[shared]!.cpuUs, aedes[shared]!.cpuUs];
    return [
      figure('the broker alone, discarding', floor.perSecond, 'heartbeats/s'),
      figure('taken', best.perSecond, 'heartbeats/s', best.perSecond / floor.perSecond),
      figure(`the broker alone at ${RATES[shared]}/s`, cpuFloor, 'us of CPU each'),
      figure(`taken and written at ${RATES[shared]}/s`, cpu, 'us of CPU each', cpuFloor / cpu),
      figure('the store alone, in batches', rowsAlone, 'rows/s'),
      figure('written, coalesced per device', best.rowsPerSecond, 'rows/s'),
      figure('from arrival to commit', best.writtenMs, 'ms'),
      figure('resident memory', best.rssMb, 'MB'),
    ];
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
};

const idOf = (index: number): Id => Id.parse(`bench-${index}`);
const signerOf = (pem: string): Signer => {
  const signer = signerFromPem(pem);
  if (!signer.ok) throw new Error(signer.detail);
  return signer.value;
};
const heartbeatOf = (at: number): Heartbeat => ({
  v: 1,
  boot: Id.parse('boot-1'),
  at,
  uptimeMs: 86_400_000,
  running: {
    product: Id.parse('gateway'),
    version: '1.4.0',
    manifest: Sha256.parse('ab'.repeat(32)),
    slot: 'a',
  },
  desiredSeq: 7,
  deployment: { id: Id.parse('de-0123456789'), state: 'committed' },
  healthy: true,
});

const configOf = (dir: string) => {
  const flags = {
    'data-dir': join(dir, 'server'),
    'http-port': '0',
    'mqtt-port': '0',
    'log-level': 'error',
    'mqtt-connections-per-address-max': '0',
    'mqtt-messages-per-second': '10000',
    'mqtt-messages-burst': '100000',
  };
  const config = loadConfig({ env: {}, flags });
  if (!config.ok) throw new Error(config.detail);
  return config.value;
};

/** A data folder with all devices let in, and, while it is open, how fast the store alone writes. */
const prepare = async (dir: string, pem: string, measureMs: number): Promise<number> => {
  const config = configOf(dir);
  const first = await startServer(config);
  await first.stop();
  const store = await openSqliteStore(join(config.dataDir, 'sluice.db'));
  try {
    await enrolAll(store, signerOf(pem));
    const { boot, running, healthy } = heartbeatOf(0);
    let rows = 0;
    const began = performance.now();
    while (performance.now() - began < measureMs) {
      const at = Date.now();
      const batch = Array.from({ length: DEVICES }, (_, index) => ({
        device: idOf(index),
        boot,
        running,
        healthy,
        at,
      }));
      await store.saveHeartbeats(batch);
      rows += batch.length;
    }
    return Math.round((rows / (performance.now() - began)) * 1000);
  } finally {
    await store.close();
  }
};

/** Every device has the same key: making 500 would only take time. */
const enrolAll = async (store: Store, signer: Signer): Promise<void> => {
  const line = { payload: '{"kind":"bench"}' };
  const tokens = Array.from({ length: DEVICES }, (_, index) => sha256Hex(String(index)));
  await store.createEnrolmentTokens(
    tokens.map((tokenSha256) => ({ tokenSha256, expiresAt: Date.now() + 1e6, device: null, tags: {}, usedBy: null })),
    line,
  );
  for (const [index, token] of tokens.entries()) {
    const device = {
      id: idOf(index),
      publicKey: signer.key.keyval.public,
      compatible: Id.parse('gw'),
      attributes: {},
      enrolledAt: 0,
    };
    await store.enrolDevice(device, token, Date.now(), line);
  }
};

// ---- The receiving process and the sending process

const Sample = z.object({
  messages: z.number(),
  rows: z.number(),
  /** Of the batches written: how many, and from their first message until they were committed, in all. */
  batches: z.number(),
  waitedMs: z.number(),
  cpuMs: z.number(),
  rssMb: z.number(),
});
type Sample = z.infer<typeof Sample>;
type Counts = Omit<Sample, 'cpuMs' | 'rssMb'>;
type Receiver = 'aedes' | 'sluice';

type Measured = { perSecond: number; rowsPerSecond: number; writtenMs: number; cpuUs: number; rssMb: number };

/** What was measured at each of `RATES` that was sustained, or at the first if none was. */
const climb = async (receiver: Receiver, dir: string, pem: string, measureMs: number): Promise<Measured[]> => {
  const children: ChildProcess[] = [];
  const start = (role: string): ChildProcess => {
    const child = fork(import.meta.filename, [role, dir], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    children.push(child);
    child.send(pem);
    return child;
  };
  try {
    const server = start(receiver);
    const port = z.number().parse(await hear(server));
    const load = start('load');
    load.send(port);
    await hear(load);
    const sustained: Measured[] = [];
    for (const rate of RATES) {
      load.send(rate);
      await sleep(WARM_MS);
      const measured = await measure(server, measureMs);
      const keptUp = measured.perSecond >= rate * SUSTAINED_SHARE && measured.writtenMs <= WRITTEN_MS_MAX;
      if (keptUp || sustained.length === 0) sustained.push(measured);
      if (!keptUp) break;
    }
    return sustained;
  } finally {
    for (const child of children.reverse()) await end(child);
  }
};

const measure = async (server: ChildProcess, measureMs: number): Promise<Measured> => {
  const before = await sampleOf(server);
  const began = performance.now();
  await sleep(measureMs);
  const after = await sampleOf(server);
  const seconds = (performance.now() - began) / 1000;
  const [messages, batches] = [after.messages - before.messages, after.batches - before.batches];
  return {
    perSecond: messages / seconds,
    rowsPerSecond: (after.rows - before.rows) / seconds,
    writtenMs: (after.waitedMs - before.waitedMs) / Math.max(1, batches),
    cpuUs: ((after.cpuMs - before.cpuMs) * 1000) / messages,
    rssMb: after.rssMb,
  };
};

const hear = (child: ChildProcess): Promise<unknown> =>
  new Promise((resolve, reject) => {
    const ended = (code: number | null): void => reject(new Error(`a process of the bench ended with ${String(code)}`));
    child.once('exit', ended);
    child.once('message', (message) => {
      child.off('exit', ended);
      resolve(message);
    });
  });
const sampleOf = async (child: ChildProcess): Promise<Sample> => {
  child.send('sample');
  return Sample.parse(await hear(child));
};
const end = async (child: ChildProcess): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
};

const tell = (message: unknown): void => void process.send?.(message);
/** Answers each request for a sample. */
const answerSamples = (count: () => Promise<Counts>): void => {
  process.on('message', () => {
    void count().then((counted) => {
      const { user, system } = process.cpuUsage();
      const sample: Sample = {
        ...counted,
        cpuMs: (user + system) / 1000,
        rssMb: Math.round(process.memoryUsage().rss / 1e6),
      };
      tell(sample);
    });
  });
};

const runAedes = async (): Promise<void> => {
  let messages = 0;
  const aedes = await Aedes.createBroker({
    concurrency: 0,
    published: (_packet, client, done) => {
      if (client !== null) messages += 1;
      done(null);
    },
  });
  const server = createServer({ noDelay: true }, (socket) => void aedes.handle(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  answerSamples(async () => ({ messages, rows: 0, batches: 0, waitedMs: 0 }));
  const address = server.address();
  tell(typeof address === 'object' ? address?.port : null);
};

const runSluice = async (dir: string): Promise<void> => {
  const config = configOf(dir);
  const server = await startServer(config);
  const token = (await readFile(join(config.dataDir, 'admin-token'), 'utf8')).trim();
  const headers = { authorization: `Bearer ${token}` };
  answerSamples(async () => {
    const text = await (await fetch(`${server.httpUrl}/metrics`, { headers })).text();
    return {
      messages: valueOf(text, 'sluice_messages_total{kind="heartbeat",outcome="taken"}'),
      rows: valueOf(text, 'sluice_messages_total{kind="heartbeat",outcome="saved"}'),
      batches: valueOf(text, 'sluice_ingest_seconds_count{kind="heartbeat"}'),
      waitedMs: valueOf(text, 'sluice_ingest_seconds_sum{kind="heartbeat"}') * 1000,
    };
  });
  tell(Number(new URL(server.mqttUrl).port));
};
const valueOf = (text: string, series: string): number => {
  const line = text.split('\n').find((one) => one.startsWith(`${series} `));
  return Number(line?.slice(series.length) ?? 0);
};

/**
 * Connects with a real client each, then writes encoded packets, at the rate it is told: the sender must not be what is
 * measured.
 */
const runLoad = async (port: number, pem: string): Promise<void> => {
  const signer = signerOf(pem);
  const clients: MqttClient[] = [];
  for (let index = 0; index < DEVICES; index++) {
    const id = idOf(index);
    const options = { clientId: id, username: id, password: makeLogin(signer, id, Date.now()), reconnectPeriod: 0 };
    clients.push(await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { ...options, protocolVersion: 4 }));
  }
  const packets = clients.map((_, index) => encode(idOf(index)));
  let rate = 0;
  let next = 0;
  let owed = 0;
  let last = performance.now();
  process.on('message', (message) => {
    rate = z.number().parse(message);
  });
  setInterval(() => {
    const now = performance.now();
    // A sender that was held up does not make up for more than a moment.
    owed = Math.min(owed + ((now - last) / 1000) * rate, rate / 10);
    last = now;
    for (; owed >= 1; owed -= 1) {
      next = (next + 1) % clients.length;
      const { stream } = clients[next]!;
      if (stream.writableLength < UNREAD_BYTES_MAX) stream.write(packets[next]);
    }
  }, TICK_MS);
  tell('connected');
};
/** A client whose broker does not keep up sends no more. */
const UNREAD_BYTES_MAX = 64 * 1024;

/** One PUBLISH packet of QoS 0 (MQTT 3.1.1, 3.3). */
const encode = (id: Id): Buffer => {
  const topic = Buffer.from(up(id, 'heartbeat'));
  const payload = Buffer.from(JSON.stringify(heartbeatOf(Date.now())));
  const length = 2 + topic.length + payload.length;
  // Two bytes hold what is below 16,384.
  const header = Buffer.from([0x30, (length % 128) | 0x80, length >> 7, topic.length >> 8, topic.length & 255]);
  return Buffer.concat([header, topic, payload]);
};

const runChild = async (role: string, dir: string): Promise<void> => {
  const messages = once(process, 'message');
  const pem = z.string().parse((await messages)[0]);
  if (role === 'aedes') return runAedes();
  if (role === 'sluice') return runSluice(dir);
  const [port] = await once(process, 'message');
  return runLoad(z.number().parse(port), pem);
};

const [role, dir] = process.argv.slice(2);
if (import.meta.main && role !== undefined && dir !== undefined) {
  // Nothing outlives the bench.
  process.on('disconnect', () => process.exit());
  await runChild(role, dir);
}
