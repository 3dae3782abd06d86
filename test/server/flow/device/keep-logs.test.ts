import { beforeEach, expect, test } from 'vitest';
import { listLogs, makeLogKeeper, trimLogs } from '#server/flow/device/keep-logs.ts';
import { Id } from '#shared/ids.ts';
import { LogPiece } from '#shared/messages.ts';
import { enrolFleet, worldOfEachTest } from '../world.ts';

const GW1 = Id.parse('gw-1');
const world = worldOfEachTest();
let said: object[];

beforeEach(async () => {
  said = [];
  await enrolFleet(world, 2);
});

const log = { info: (facts: object) => void said.push(facts), error: (facts: object) => void said.push(facts) };
const open = () => makeLogKeeper({ store: world.store, now: world.now, log });
const piece = (n: number): LogPiece =>
  LogPiece.parse({
    id: `piece-${n}`,
    boot: 'boot-1',
    deployment: 'dep-1',
    source: 'application',
    part: 1,
    parts: 1,
    at: 5,
    text: `secret text ${n}`,
  });
const listed = async (query: object = {}) => {
  const found = await listLogs(world, GW1, { limit: 100, ...query });
  return found.ok ? { ids: found.value.items.map(({ id }) => id), next: found.value.next } : found.code;
};

test('what a device sends over HTTP is kept, and shown newest first, page by page', async () => {
  const keeper = open();
  expect(await keeper.keep(GW1, [piece(1), piece(2), piece(3)])).toEqual({
    ok: true,
    value: { kept: ['piece-1', 'piece-2', 'piece-3'] },
  });
  const first = await listed({ limit: 2 });
  expect(first).toMatchObject({ ids: ['piece-3', 'piece-2'] });
  const next = typeof first === 'string' ? '' : first.next;
  expect(await listed({ limit: 2, after: next })).toEqual({ ids: ['piece-1'], next: null });
  expect(await listed({ deployment: 'dep-2' })).toEqual({ ids: [], next: null });
  expect(await listed({ after: 'nonsense' })).toBe('invalid-request');
  expect(await listLogs(world, Id.parse('nobody'), { limit: 1 })).toMatchObject({ ok: false, code: 'not-found' });
});

test('over MQTT a piece is acknowledged when it is kept, again when it comes again', async () => {
  const keeper = open();
  const acks: string[] = [];
  const take = keeper.overMqtt((device, ack) => void acks.push(`${device} ${ack.boot} ${ack.log}`));
  take(GW1, piece(1));
  expect(acks).toEqual([]);
  await keeper.stop();
  take(GW1, piece(1));
  await keeper.stop();
  expect(acks).toEqual(['gw-1 boot-1 piece-1', 'gw-1 boot-1 piece-1']);
  expect(await listed()).toMatchObject({ ids: ['piece-1'] });
});

test("the server's own log says that something came, and nothing of what it says", async () => {
  await open().keep(GW1, [piece(1)]);
  expect(said).toMatchObject([{ event: 'device-log', deviceId: 'gw-1', deployment: 'dep-1' }]);
  expect(JSON.stringify(said)).not.toContain('secret');
});

test('a device that floods is refused, others are not, and later it is heard again', async () => {
  const keeper = open();
  const burst = Array.from({ length: 40 }, (_, n) => piece(n));
  const answer = await keeper.keep(GW1, burst);
  expect(answer.ok ? answer.value.kept.length : 0).toBe(32);
  expect(await keeper.keep(GW1, [piece(50)])).toMatchObject({ ok: false, code: 'rate-limited' });
  expect(await keeper.keep(Id.parse('gw-2'), [piece(50)])).toMatchObject({ ok: true });
  world.pass(61_000);
  expect(await keeper.keep(GW1, [piece(50)])).toMatchObject({ ok: true });
});

test('a store that fails is survived, and nothing is acknowledged', async () => {
  const store = { saveDeviceLogs: () => Promise.reject(new Error('full')) };
  const keeper = makeLogKeeper({ store, now: world.now, log });
  const acks: string[] = [];
  keeper.overMqtt((device) => void acks.push(device))(GW1, piece(1));
  await keeper.stop();
  expect([acks, said]).toMatchObject([[], [{ event: 'device-log-lost' }]]);
});

test('after a month they go', async () => {
  await open().keep(GW1, [piece(1)]);
  expect(await trimLogs(world)).toBe(0);
  world.pass(31 * 86_400_000);
  expect(await trimLogs(world)).toBe(1);
  expect(await listed()).toEqual({ ids: [], next: null });
});
