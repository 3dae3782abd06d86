/** A real server in a folder that goes away, and devices that speak to it over real sockets. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import mqtt, { type MqttClient } from 'mqtt';
import { loadConfig, type ServerConfig } from '#server/config.ts';
import { deviceRoutes } from '#shared/device-api.ts';
import { Id } from '#shared/ids.ts';
import { Ack, parseMessage, type StateReport } from '#shared/messages.ts';
import { down, up } from '#shared/topics.ts';
import { makeLogin } from '#shared/trust/login.ts';
import { signPayload } from '#shared/trust/signed.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';

export const newFolder = (): Promise<string> => mkdtemp(join(tmpdir(), 'sluice-server-'));
export const removeFolder = (dir: string): Promise<void> => rm(dir, { recursive: true, force: true });

/** Quiet, on ports that are free. */
export const configFor = (dataDir: string, flags: Record<string, string> = {}): ServerConfig => {
  const given = { 'data-dir': dataDir, 'http-port': '0', 'mqtt-port': '0', 'log-level': 'silent', ...flags };
  const config = loadConfig({ env: {}, flags: given });
  if (!config.ok) throw new Error(config.detail);
  return config.value;
};

const newKey = (): Signer => {
  const signer = signerFromPem(generatePrivateKey('ed25519'));
  if (!signer.ok) throw new Error(signer.detail);
  return signer.value;
};

export type Device = { id: Id; key: Signer; authorization(): string };
export const newDevice = (name: string, key = newKey()): Device => {
  const id = Id.parse(name);
  return { id, key, authorization: () => `Device ${makeLogin(key, id, Date.now())}` };
};

export const enrol = async (httpUrl: string, device: Device, token: string | null): Promise<Response> =>
  fetch(httpUrl + deviceRoutes.enrol.path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(
      signPayload(device.key, {
        type: 'sluice/enrol/1',
        device: device.id,
        publicKey: device.key.key.keyval.public,
        compatible: 'gw2',
        attributes: {},
        token,
        at: Date.now(),
      }),
    ),
  });

/** As the operator: JSON in, JSON out. */
export const ask = async (
  httpUrl: string,
  token: string,
  method: string,
  path: string,
  body?: object,
  // oxlint-disable-next-line typescript/no-explicit-any -- tests read answers as they come
): Promise<any> => {
  const response = await fetch(httpUrl + path, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  if (!response.ok) throw new Error(`${method} ${path}: ${await response.text()}`);
  return response.json();
};

/** An enrolled device that an operator has let in. */
export const admit = async (httpUrl: string, token: string, name: string): Promise<Device> => {
  const device = newDevice(name);
  const made = await ask(httpUrl, token, 'POST', '/api/v1/enrolment-tokens', { count: 1 });
  const answer = await enrol(httpUrl, device, made.tokens[0]);
  if (!answer.ok) throw new Error(await answer.text());
  return device;
};

/** Connected and subscribed, or rejected with what the broker said. */
export const connectDevice = async (mqttUrl: string, device: Device): Promise<MqttClient> => {
  const client = mqtt.connect(mqttUrl, {
    clientId: device.id,
    username: device.id,
    password: makeLogin(device.key, device.id, Date.now()),
    protocolVersion: 4,
    reconnectPeriod: 0,
    rejectUnauthorized: false,
  });
  await new Promise<void>((resolve, reject) => {
    client.once('connect', () => resolve());
    client.once('error', reject);
    client.once('close', () => reject(new Error('closed')));
  });
  await client.subscribeAsync([down(device.id, 'desired'), down(device.id, 'ack')], { qos: 1 });
  return client;
};

const reportOf = (seq: number): StateReport => ({
  v: 1,
  boot: Id.parse('boot-1'),
  seq,
  at: Date.now(),
  agent: '1.0.0',
  running: null,
  floor: 0,
  desiredSeq: 0,
  deployment: null,
  receipts: [],
  attributes: {},
});

/** The next acknowledgement of this device. */
const nextAck = (client: MqttClient, device: Device): Promise<Ack> =>
  new Promise((resolve, reject) => {
    client.once('close', () => reject(new Error('closed before the acknowledgement')));
    client.on('message', (topic, payload) => {
      const ack = topic === down(device.id, 'ack') ? parseMessage(Ack, payload) : undefined;
      if (ack !== undefined) resolve(ack);
    });
  });

/** Reports once, and waits for the acknowledgement. */
export const reportAndWait = async (client: MqttClient, device: Device, seq: number): Promise<Ack> => {
  const ack = nextAck(client, device);
  client.publish(up(device.id, 'state'), JSON.stringify(reportOf(seq)), { qos: 1 });
  return ack;
};

export const until = async (holds: () => Promise<boolean> | boolean, what: string): Promise<void> => {
  for (const deadline = Date.now() + 60_000; !(await holds()); ) {
    if (Date.now() > deadline) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};
