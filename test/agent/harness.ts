/**
 * A small but real server for agent tests: a TUF repository and a director that really sign, a real MQTT broker that
 * checks logins, real HTTP with ranges. And real agents: child processes that can be killed at any durable step.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { Aedes } from 'aedes';
import { inject, onTestFinished } from 'vitest';
import type { z } from 'zod';
import { signDesired } from '#server/trust/director.ts';
import { openKeyring } from '#server/trust/keyring.ts';
import { openRepository } from '#server/trust/repository.ts';
import { Receipt } from '#shared/deployment.ts';
import { deviceRoutes, EnrolmentPayload, TUF_METADATA, TUF_TARGETS } from '#shared/device-api.ts';
import { Id, manifestPath, Sha256 } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import {
  type Desired,
  Heartbeat,
  type Instruction,
  LogPiece,
  parseMessage,
  Signed,
  StateReport,
} from '#shared/messages.ts';
import { down, parseUp } from '#shared/topics.ts';
import { addManifests } from '#shared/trust/delegation.ts';
import { ed25519PublicKey } from '#shared/trust/keys.ts';
import { verifyLogin } from '#shared/trust/login.ts';
import { verifySigned } from '#shared/trust/signed.ts';
import { generatePrivateKey, signerFromPem } from '#shared/trust/signers.ts';

type ManifestInput = z.input<typeof Manifest>;

const PRODUCT = Id.parse('gateway');
const COMPATIBLE = Id.parse('gw-test');
export const DEVICE = Id.parse('gw-01');

/** An application in one file, run by Node. */
export const APPS = {
  good: 'setInterval(() => {}, 1000);',
  /** Long enough on trial to be caught there, then it fails. */
  crashing: 'setTimeout(() => { console.error("out of luck"); process.exit(3); }, 50);',
} as const;

/**
 * With this no check calls a version well. For one that crashes: it then crashes while on trial however long it takes
 * to start; on a busy machine it would be committed before.
 */
export const NEVER_WELL = {
  health: { checks: [{ kind: 'command', command: ['false'] }], soakMs: 0, deadlineMs: 60_000, intervalMs: 100 },
} satisfies Partial<ManifestInput>;

export type Published = {
  version: string;
  app: Sha256;
  ballast: Sha256;
  instruction: Extract<Instruction, { kind: 'install' }>;
};

const sha256 = (bytes: Uint8Array): Sha256 => Sha256.parse(createHash('sha256').update(bytes).digest('hex'));
export const BALLAST_BYTES = 4 * 1024 * 1024;

export type TestServer = Awaited<ReturnType<typeof startTestServer>>;

/** Lives as long as the test; or, in `beforeAll`, until its starter calls `stop`. */
export const startTestServer = async (
  finished: (stop: () => Promise<void>) => void = onTestFinished,
  now: () => number = Date.now,
) => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-agent-server-'));
  const keyring = await openKeyring(join(dir, 'keys'));
  const repository = await openRepository({ dir: join(dir, 'tuf'), keyring, now });
  const signer = signerFromPem(generatePrivateKey('ed25519'));
  if (!signer.ok) throw new Error(signer.detail);
  const ci = signer.value;
  await repository.delegateProduct(PRODUCT, [ci.key]);

  const objects = new Map<string, Buffer>();
  const state = {
    /** Raw public keys of the devices that are let in. */
    devices: new Map<string, string>(),
    admit: true,
    acknowledge: true,
    /** Over how long the fleet is to take turns. */
    spreadMs: undefined as number | undefined,
    answerDesired: true,
    answerMetadata: true,
    /** What was said over HTTP of why the device does not act. */
    refusals: [] as (string | null)[],
    /** No one reaches it. */
    offline: false,
    desired: null as Desired | null,
    seq: 0,
    delegation: null as string | null,
    delegationVersion: 0,
    /** Every state report that came, in order. */
    reports: [] as StateReport[],
    /** Each distinct receipt, verified. */
    receipts: [] as Receipt[],
    heartbeats: 0,
    /** What the newest heartbeat said. */
    healthy: null as boolean | null,
    /** Every log piece that came, over MQTT and over HTTP. */
    logs: [] as LogPiece[],
    /** Of objects: what was asked for. */
    requests: [] as { sha256: string; from: number }[],
    /** Answers instead of the server when it returns true. */
    onObject: (_request: { sha256: string; from: number }, _bytes: Buffer, _response: ServerResponse): boolean => false,
  };

  const broker = await Aedes.createBroker({
    authenticate: (client, _user, password, done) => {
      const key = state.devices.get(client?.id ?? '');
      const ok = key !== undefined && state.admit && verifyLogin(String(password), key, now()).ok;
      if (ok) done(null, true);
      else done(Object.assign(new Error('no'), { returnCode: 4 }), false);
    },
    published: (packet, client, done) => {
      if (client !== null) onMessage(packet.topic, Buffer.from(packet.payload));
      done(null);
    },
  });
  const publish = (topic: string, message: object): void => {
    const packet = {
      cmd: 'publish' as const,
      topic,
      payload: JSON.stringify(message),
      qos: 1 as const,
      dup: false,
      retain: false,
    };
    broker.publish(packet, () => undefined);
  };
  broker.on('subscribe', (subscriptions, client) => {
    const topic = down(client.id, 'desired');
    if (state.desired !== null && subscriptions.some((subscription) => subscription.topic === topic))
      publish(topic, state.desired);
  });
  const onMessage = (topic: string, payload: Buffer): void => {
    const parsed = parseUp(topic);
    if (parsed?.channel === 'heartbeat') {
      state.heartbeats += 1;
      state.healthy = parseMessage(Heartbeat, payload)?.healthy ?? null;
    }
    if (parsed?.channel === 'log') {
      const piece = parseMessage(LogPiece, payload)!;
      state.logs.push(piece);
      if (state.acknowledge) publish(down(parsed.device, 'ack'), { boot: piece.boot, log: piece.id });
    }
    if (parsed?.channel !== 'state') return;
    const report = parseMessage(StateReport, payload);
    if (report === undefined) throw new Error(`a report that is not of the contract's form: ${payload.toString()}`);
    state.reports.push(report);
    for (const signed of report.receipts) receive(parsed.device, signed);
    if (state.acknowledge)
      publish(down(parsed.device, 'ack'), { boot: report.boot, seq: report.seq, spreadMs: state.spreadMs });
  };
  const receive = (device: Id, signed: Signed): void => {
    const key = ed25519PublicKey(state.devices.get(device) ?? '');
    if (!verifySigned(signed, key)) throw new Error('a receipt with a wrong signature');
    const receipt = Receipt.parse(JSON.parse(signed.payload));
    if (!state.receipts.some((known) => isDeepStrictEqual(known, receipt))) state.receipts.push(receipt);
  };

  const sockets = new Set<Socket>();
  const mqtt = createTcpServer((socket) => {
    if (state.offline) {
      socket.destroy();
      return;
    }
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    broker.handle(socket);
  });
  mqtt.listen(0, '127.0.0.1');
  await once(mqtt, 'listening');
  const mqttUrl = `mqtt://127.0.0.1:${(mqtt.address() as AddressInfo).port}`;

  const route = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const path = request.url ?? '';
    const json = (status: number, body: object): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    };
    if (path === '/device/v1/enrol') {
      const signed = Signed.parse(JSON.parse((await readAll(request)).toString()));
      const payload = EnrolmentPayload.parse(JSON.parse(signed.payload));
      if (!verifySigned(signed, ed25519PublicKey(payload.publicKey))) return json(422, { code: 'signature-invalid' });
      state.devices.set(payload.device, payload.publicKey);
      return json(200, {
        state: state.admit ? 'accepted' : 'pending',
        rootSha256: repository.rootSha256,
        mqttUrl,
        serverTime: now(),
      });
    }
    const login = (request.headers.authorization ?? '').replace(/^Device /, '');
    const known = [...state.devices.values()].some((key) => verifyLogin(login, key, now()).ok);
    if (!known) return json(401, { code: 'unauthenticated' });
    if (path === '/device/v1/logs') {
      const { pieces } = deviceRoutes.logs.body.parse(JSON.parse((await readAll(request)).toString()));
      state.logs.push(...pieces);
      return json(200, { kept: pieces.map(({ id }) => id) });
    }
    if (path === '/device/v1/refusal') {
      const { code } = deviceRoutes.refusal.body.parse(JSON.parse((await readAll(request)).toString()));
      state.refusals.push(code);
      return json(200, {});
    }
    if (path === '/device/v1/desired') {
      if (!state.answerDesired) return json(503, { code: 'unavailable' });
      return json(200, { desired: state.desired, serverTime: now(), spreadMs: state.spreadMs });
    }
    if (!state.answerMetadata && path.startsWith('/tuf/')) return json(503, { code: 'unavailable' });
    const [kind, prefix] = path.startsWith(TUF_METADATA)
      ? (['metadata', TUF_METADATA] as const)
      : (['targets', TUF_TARGETS] as const);
    const found = path.startsWith(prefix) ? await repository.read(kind, path.slice(prefix.length)) : undefined;
    if (found !== undefined) return void response.writeHead(200).end(found);
    if (path.startsWith('/o/')) return serveObject(path.slice(3), request, response);
    return json(404, { code: 'not-found' });
  };
  const serveObject = (name: string, request: IncomingMessage, response: ServerResponse): void => {
    const bytes = objects.get(name);
    if (bytes === undefined) return void response.writeHead(404).end();
    const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    state.requests.push({ sha256: name, from });
    if (state.onObject({ sha256: name, from }, bytes, response)) return;
    const headers = { etag: `"${name}"`, 'content-length': bytes.length - from };
    if (from === 0) response.writeHead(200, headers);
    else response.writeHead(206, { ...headers, 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` });
    response.end(bytes.subarray(from));
  };
  const http = createServer((request, response) => {
    void route(request, response).catch((error: unknown) => {
      response.writeHead(500, { 'content-type': 'application/json' }).end(JSON.stringify({ detail: String(error) }));
    });
  });
  http.on('connection', (socket) => {
    if (state.offline) socket.destroy();
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');

  /** Signs, keeps, and publishes one version whose application is the given script. */
  const publishRelease = async (
    version: string,
    script: string,
    more: Partial<ManifestInput> = {},
  ): Promise<Published> => {
    const app = Buffer.from(`// ${version}\n${script}\n`);
    // Distinct bytes a version, so that nothing is there already.
    const ballast = Buffer.alloc(BALLAST_BYTES, `${version} `);
    const artifacts = [
      { name: 'app', bytes: app.length, sha256: sha256(app), install: { kind: 'file', path: 'app.mjs' } },
      {
        name: 'ballast',
        bytes: ballast.length,
        sha256: sha256(ballast),
        install: { kind: 'file', path: 'ballast.bin' },
      },
    ];
    const manifest = Manifest.parse({
      format: 1,
      product: PRODUCT,
      version,
      compatible: COMPATIBLE,
      securityCounter: 1,
      artifacts,
      run: { command: ['node', 'app.mjs'] },
      // No test waits for this deadline: a slow machine does not reach it either.
      health: { soakMs: 300, deadlineMs: 120_000, intervalMs: 50 },
      ...more,
    });
    objects.set(sha256(app), app);
    objects.set(sha256(ballast), ballast);
    const bytes = Buffer.from(JSON.stringify(manifest));
    const path = manifestPath(PRODUCT, version, COMPATIBLE);
    await repository.putManifest(path, bytes);
    const manifests = [{ path, bytes }];
    const expires = now() + 365 * 86_400_000;
    state.delegation = addManifests({ document: state.delegation, product: PRODUCT, manifests, signer: ci, expires });
    state.delegationVersion += 1;
    await repository.publishDelegation(PRODUCT, state.delegationVersion, state.delegation);
    return {
      version,
      app: sha256(app),
      ballast: sha256(ballast),
      instruction: {
        kind: 'install',
        deployment: Id.parse(`dep-${version.replaceAll('.', '-')}`),
        rollout: Id.parse(`rol-${version.replaceAll('.', '-')}`),
        product: PRODUCT,
        version,
        compatible: COMPATIBLE,
        securityCounter: manifest.securityCounter,
        path,
        sha256: sha256(bytes),
        length: bytes.length,
      },
    };
  };
  const desire = (
    instruction: Instruction,
    more: { seq?: number; expires?: number; device?: Id; push?: false } = {},
  ): Desired => {
    state.seq = more.seq ?? state.seq + 1;
    const times = { issuedAt: now(), expires: more.expires ?? now() + 86_400_000 };
    const leaf = {
      type: 'sluice/desired/1' as const,
      device: more.device ?? DEVICE,
      seq: state.seq,
      ...times,
      instruction,
    };
    const [desired] = signDesired(keyring.director, [leaf], times);
    state.desired = desired!;
    if (more.push !== false) publish(down(DEVICE, 'desired'), desired!);
    return desired!;
  };

  const root = Buffer.from(repository.rootSha256, 'hex').toString('base64url');
  const server = {
    state,
    /**
     * aedes loses a client that comes back while its old connection is still closing; the server's own broker does not.
     */
    nobodyIsConnected: () => broker.connectedClients === 0,
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    mqttUrl,
    rootSha256: repository.rootSha256,
    token: `sle_${Buffer.alloc(32, 7).toString('base64url')}_${root}`,
    keyring,
    publishRelease,
    /** Serves these bytes by their digest, for a manifest with artifacts of its own. */
    addObject: (bytes: Buffer): Sha256 => {
      objects.set(sha256(bytes), bytes);
      return sha256(bytes);
    },
    desire,
    /** Sends any document as it is. */
    push: (desired: object) => publish(down(DEVICE, 'desired'), desired),
    dropConnections: () => {
      for (const socket of sockets) socket.destroy();
    },
    goOffline: () => {
      state.offline = true;
      for (const socket of sockets) socket.destroy();
      http.closeAllConnections();
    },
    stop: async () => {
      for (const socket of sockets) socket.destroy();
      mqtt.close();
      http.closeAllConnections();
      http.close();
      await new Promise<void>((resolve) => broker.close(() => resolve()));
      await rm(dir, { recursive: true, force: true });
    },
  };
  finished(server.stop);
  return server;
};

const readAll = async (request: IncomingMessage): Promise<Buffer> => {
  const pieces: Buffer[] = [];
  for await (const piece of request) pieces.push(Buffer.from(piece as Buffer));
  return Buffer.concat(pieces);
};

export type LogLine = {
  event?: string;
  state?: string;
  deployment?: string;
  time: string;
  msg: string;
  level: number;
  code?: string;
};

/** Where none was built, its sources. */
const agentFile = inject('agentFile') ?? join(import.meta.dirname, '../../agent/main.ts');

/** One agent's data folder, and the processes that work in it one after the other. */
export const openDevice = async (
  server: Pick<TestServer, 'url' | 'token'>,
  settings: Record<string, unknown> = {},
  finished: (stop: () => Promise<void>) => void = onTestFinished,
) => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-agent-'));
  const dataDir = join(dir, 'data');
  const configFile = join(dir, 'agent.json');
  const config = {
    device: DEVICE,
    serverUrl: server.url,
    dataDir,
    compatible: COMPATIBLE,
    token: server.token,
    heartbeatMs: 500,
    reconnect: { firstMs: 50, maxMs: 500 },
    application: { stopMs: 1_000 },
    ...settings,
  };
  await writeFile(configFile, JSON.stringify(config));
  const running = new Set<ChildProcess>();
  finished(async () => {
    for (const child of running) child.kill('SIGKILL');
    await Promise.all([...running].map((child) => once(child, 'close')));
    // An application outlives an agent that was killed: the next agent ends it, or else we do.
    await killApplication(dataDir);
    await rm(dir, { recursive: true, force: true, maxRetries: 5 });
  });

  /** Starts the agent; with `killAt` it ends itself at that durable step. `under`: a program that watches it. */
  const start = (killAt?: string, more: Record<string, string> = {}, under: string[] = []) => {
    const env = { ...process.env, ...more, ...(killAt === undefined ? {} : { SLUICE_AGENT_KILL_AT: killAt }) };
    const [word, ...words] = [...under, process.execPath, agentFile, '--config', configFile];
    const child = spawn(word, words, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(child);
    const lines: LogLine[] = [];
    let output = '';
    let rest = '';
    child.stdout.on('data', (bytes: Buffer) => {
      const [...complete] = (rest + bytes.toString()).split('\n');
      rest = complete.pop() ?? '';
      for (const line of complete) lines.push(JSON.parse(line) as LogLine);
    });
    child.stderr.on('data', (bytes: Buffer) => {
      output += bytes.toString();
    });
    const ended = once(child, 'close').then(([code, signal]) => {
      running.delete(child);
      return { code: code as number | null, signal: signal as string | null };
    });
    return {
      lines,
      states: () => lines.filter(({ event }) => event === 'state-entered').map(({ state }) => state!),
      errorOutput: () => output,
      ended,
      hasEnded: () => !running.has(child),
      kill: () => child.kill('SIGKILL'),
      stop: async () => {
        child.kill('SIGTERM');
        return ended;
      },
    };
  };
  return { dir, dataDir, configFile, start };
};

export type RunningAgent = ReturnType<Awaited<ReturnType<typeof openDevice>>['start']>;

const killApplication = async (dataDir: string): Promise<void> => {
  const file = join(dataDir, 'supervisor', 'application.json');
  const text = await readFile(file, 'utf8').catch(() => undefined);
  if (text === undefined) return;
  const { pid } = JSON.parse(text) as { pid: number };
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It is gone.
  }
};

/** Waits until the condition holds; a failure says what was waited for. */
export const until = async (
  what: string,
  holds: () => unknown,
  deadlineMs = 60_000,
  facts?: () => unknown,
): Promise<void> => {
  const end = performance.now() + deadlineMs;
  while (!(await holds())) {
    if (performance.now() > end)
      throw new Error(`waited in vain until ${what}${facts === undefined ? '' : `: ${JSON.stringify(await facts())}`}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

/** The slots by what is on disk. */
export const readSelector = async (dataDir: string): Promise<{ active: string | null; trial: unknown }> => {
  const dir = join(dataDir, 'slots');
  const copies = await Promise.all(
    (await readdir(dir))
      .filter((name) => /^boot\.[01]\.json$/.test(name))
      .map(
        async (name) =>
          JSON.parse((await readFile(join(dir, name), 'utf8')).split('\n')[0]!) as Record<string, unknown>,
      ),
  );
  return copies.sort((one, other) => generationOf(other) - generationOf(one))[0] as never;
};
const generationOf = (copy: Record<string, unknown>): number => Number(copy['generation'] ?? 0);
