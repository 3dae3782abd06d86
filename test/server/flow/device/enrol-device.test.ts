import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { acceptDevice, createEnrolmentTokens, rejectDevice } from '#server/flow/device/admit-device.ts';
import { authenticateDevice } from '#server/flow/device/authenticate-device.ts';
import { makeEnrolDevice, makeEnrolmentGate } from '#server/flow/device/enrol-device.ts';
import { gatherDevices } from '#server/flow/device/find-device.ts';
import { type Ingest, makeIngest } from '#server/flow/device/ingest.ts';
import type { EnrolmentPayload } from '#shared/device-api.ts';
import { Id } from '#shared/ids.ts';
import type { Signed } from '#shared/messages.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { makeLogin } from '#shared/trust/login.ts';
import { signPayload } from '#shared/trust/signed.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { deviceOf, kindsOf, must, newSigner, worldOfEachTest } from '../world.ts';

const GW1 = Id.parse('gw-1');
const MQTT = 'mqtt://broker.example:1883';
const world = worldOfEachTest();
let enrol: ReturnType<typeof makeEnrolDevice>;
let key: Signer;
let ingest: Ingest;

beforeEach(async () => {
  key = newSigner();
  const ignore = () => undefined;
  ingest = makeIngest({
    ...world,
    observer: {
      message: ignore,
      ingested: ignore,
      refused: ignore,
      takenOver: () => undefined,
      keyShared: () => undefined,
      receiptRefused: ignore,
    },
    log: { info: ignore, warn: ignore, error: ignore },
    keepLog: ignore,
    wake: ignore,
  });
  enrol = makeEnrolDevice({ ...world, ingest, rootSha256: world.repository.rootSha256, mqttUrl: MQTT });
});
afterEach(() => ingest.stop());

const enrolment = (more: Partial<EnrolmentPayload> = {}, signer = key): Signed =>
  signPayload(signer, {
    type: 'sluice/enrol/1',
    device: GW1,
    publicKey: key.key.keyval.public,
    compatible: 'gw2',
    attributes: { 'os.name': 'linux' },
    token: null,
    at: world.now(),
    ...more,
  });
const tokenFor = async (device?: Id): Promise<string> => {
  const input = { count: 1, device, tags: { site: 'lyon' }, expiresInMs: 60_000, by: 'ada' };
  const made = must(await createEnrolmentTokens({ ...world, rootSha256: world.repository.rootSha256 }, input));
  return made.tokens[0]!;
};
const code = async (signed: Signed) => {
  const result = await enrol(signed);
  return result.ok ? result.value.state : result.code;
};

test('a device with a token is let in at once, and told whom to trust and where to connect', async () => {
  const answer = must(await enrol(enrolment({ token: await tokenFor() })));
  expect(answer).toEqual({
    state: 'accepted',
    rootSha256: world.repository.rootSha256,
    mqttUrl: MQTT,
    serverTime: world.now(),
  });
  expect(await deviceOf(world, 'gw-1')).toMatchObject({
    state: 'accepted',
    compatible: 'gw2',
    tags: { site: 'lyon' },
    attributes: { 'os.name': 'linux' },
  });
  expect(await kindsOf(world)).toEqual(['enrolment-tokens-created', 'device-enrolled']);
});

test('a device without a token waits until an operator accepts it, and may ask as often as it likes', async () => {
  expect(await code(enrolment())).toBe('pending');
  expect(await code(enrolment())).toBe('pending');
  must(await acceptDevice(world, { device: GW1, by: 'ada' }));
  expect(await code(enrolment())).toBe('accepted');
  must(await rejectDevice(world, { device: GW1, by: 'ada' }));
  expect(await code(enrolment())).toBe('rejected');
  expect((await kindsOf(world)).filter((kind) => kind === 'device-enrolled')).toHaveLength(1);
});

test('a lost answer is made good by asking again, though the token is used', async () => {
  const token = await tokenFor();
  expect([await code(enrolment({ token })), await code(enrolment({ token }))]).toEqual(['accepted', 'accepted']);
});

test('a token lets one device in, the one it is for, before it expires', async () => {
  const token = await tokenFor();
  expect(await code(enrolment({ token }))).toBe('accepted');
  expect(await code(enrolment({ device: Id.parse('gw-2'), token }))).toBe('token-invalid');
  expect(await code(enrolment({ device: Id.parse('gw-3'), token: await tokenFor(GW1) }))).toBe('token-invalid');
  const late = await tokenFor();
  world.pass(61_000);
  expect(await code(enrolment({ device: Id.parse('gw-4'), token: late }))).toBe('token-invalid');
});

test.each([
  ['not a token at all', () => 'secret'],
  ['made up', (root: string) => `sle_${randomBytes(32).toString('base64url')}_${root}`],
  ['of a server with another trust root', () => `sle_${'a'.repeat(43)}_${'b'.repeat(43)}`],
])('a token that is %s is refused, and the device does not even wait', async (_what, make) => {
  const root = Buffer.from(world.repository.rootSha256, 'hex').toString('base64url');
  expect(await code(enrolment({ token: make(root) }))).toBe('token-invalid');
  expect(await world.store.getDevice(GW1)).toBeUndefined();
});

test('an id belongs to the key that came first', async () => {
  expect(await code(enrolment({ token: await tokenFor() }))).toBe('accepted');
  const other = newSigner();
  const stolen = enrolment({ publicKey: other.key.keyval.public, token: await tokenFor() }, other);
  expect(await code(stolen)).toBe('already-exists');
});

test('a wiped or replaced device gets its id back with a token made for it; the old key is dead at once', async () => {
  expect(await code(enrolment({ token: await tokenFor() }))).toBe('accepted');
  const old = key;
  const report = { v: 1, boot: 'b', seq: 9, at: 0, agent: '1.0.0', running: null, floor: 0, desiredSeq: 0 };
  const said = Buffer.from(JSON.stringify({ ...report, deployment: null, receipts: [], attributes: {} }));
  const token = await tokenFor(GW1);
  key = newSigner();
  const enrolling = code(enrolment({ token }));
  // Whatever still comes over the old connection meanwhile is not the newcomer's word.
  ingest.message(GW1, 'state', said);
  expect(await enrolling).toBe('accepted');
  expect(world.link.disconnected).toEqual([GW1]);
  expect(await login(makeLogin(old, GW1, world.now()))).toBe('unauthenticated');
  expect(await login(makeLogin(key, GW1, world.now()))).toBe(GW1);
  await ingest.flush();
  expect(await deviceOf(world, 'gw-1')).toMatchObject({ reportSeq: 0, agent: null, tags: { site: 'lyon' } });
  const line: unknown = JSON.parse((await world.store.readAudit(-1, 100)).at(-1)!.payload);
  expect(line).toMatchObject({ kind: 'device-enrolled', publicKey: key.key.keyval.public, replaced: true });

  // Its answer may have been lost; the token lets in no one else, and the old key does not come back.
  expect(await code(enrolment({ token }))).toBe('accepted');
  key = newSigner();
  expect(await code(enrolment({ token }))).toBe('already-exists');
  key = old;
  expect(await code(enrolment({ token }))).toBe('already-exists');
  expect(world.link.disconnected).toEqual([GW1]);
});

test('who does not hold the key cannot enrol it', async () => {
  expect(await code(enrolment({}, newSigner()))).toBe('signature-invalid');
  const { payload, ...rest } = enrolment();
  expect(await code({ ...rest, payload: payload.replace('"gw2"', '"gw3"') })).toBe('signature-invalid');
});

test.each([
  ['no JSON', '{'],
  ['of another type', JSON.stringify({ type: 'sluice/login/1' })],
  ['with 65 attributes', undefined],
])('an enrolment that is %s is refused', async (_what, payload) => {
  const many = Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`a${index}`, 'x']));
  const signed = payload === undefined ? enrolment({ attributes: many }) : { ...enrolment(), payload };
  expect(await code(signed)).toBe('invalid-request');
});

test('a clock that is a day off is told the time', async () => {
  const result = await enrol(enrolment({ at: 0 }));
  expect(result).toMatchObject({ ok: false, code: 'clock-skew', detail: expect.stringContaining(String(world.now())) });
});

test('one address may not ask without end, another is not held up, and time heals', () => {
  let now = 0;
  const gate = makeEnrolmentGate(() => now);
  const codes = Array.from({ length: 201 }, () => gate('2001:db8::1')?.code);
  expect(codes.filter((one) => one === 'rate-limited')).toHaveLength(1);
  expect(gate('2001:db8:0:0:9::7')?.code).toBe('rate-limited');
  expect(gate('192.0.2.9')).toBeUndefined();
  now += 1_000;
  expect(gate('2001:db8::1')).toBeUndefined();
});

// ---- Logins

const login = async (token: string) => {
  const result = await authenticateDevice({ findDevice: gatherDevices(world.store), now: world.now }, token);
  return result.ok ? result.value : result.code;
};

test('a login proves who a device is once it has been accepted', async () => {
  const token = () => makeLogin(key, GW1, world.now());
  expect(await login(token())).toBe('unauthenticated');
  await code(enrolment());
  expect(await login(token())).toBe('forbidden');
  must(await acceptDevice(world, { device: GW1, by: 'ada' }));
  expect(await login(token())).toBe(GW1);
  must(await rejectDevice(world, { device: GW1, by: 'ada' }));
  expect(await login(token())).toBe('forbidden');
});

test('a login of another key, in another name, too old, or malformed is refused', async () => {
  await code(enrolment({ token: await tokenFor() }));
  expect(await login(makeLogin(newSigner(), GW1, world.now()))).toBe('unauthenticated');
  expect(await login(makeLogin(key, Id.parse('gw-2'), world.now()))).toBe('unauthenticated');
  expect(await login(makeLogin(key, GW1, world.now() - 301_000))).toBe('clock-skew');
  expect(await login('x.y')).toBe('unauthenticated');
  expect(await login('')).toBe('unauthenticated');
});

test('only the digest of a token is kept', async () => {
  const token = await tokenFor();
  await code(enrolment({ token }));
  const log = (await world.store.readAudit(-1, 100)).map(({ payload }) => payload).join();
  expect(log).not.toContain(token);
  expect(log).not.toContain(sha256Hex(token));
});

test('devices that are asked about together are looked up with one question', async () => {
  await code(enrolment());
  const asked: Id[][] = [];
  const find = gatherDevices({
    getDevices: async (ids) => {
      asked.push(ids);
      return world.store.getDevices(ids);
    },
  });
  const found = await Promise.all([find(GW1), find(Id.parse('gw-9')), find(GW1)]);
  expect(found.map((device) => device?.id)).toEqual([GW1, undefined, GW1]);
  expect(asked).toEqual([[GW1, 'gw-9']]);
});
