import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { buildApp } from '#server/http/app.ts';
import { healthRoute } from '#server/http/health.ts';
import type { OutboxItem } from '#server/store/desired.ts';
import { refuse } from '#shared/problems.ts';

let app: FastifyInstance;
let outbox: OutboxItem[];
let fails: boolean;
let time: number;

beforeEach(async () => {
  outbox = [];
  fails = false;
  time = 1_000_000;
  app = await buildApp({
    version: '0.0.1',
    findOperator: async () => undefined,
    verifyDevice: async () => refuse('unauthenticated', 'no devices here'),
  });
  const takeOutbox = async (): Promise<OutboxItem[]> => {
    if (fails) throw new Error('the database is gone');
    return outbox;
  };
  healthRoute(app, { store: { takeOutbox }, now: () => time });
});
afterEach(() => app.close());

const health = async () => {
  time += 1_000;
  const answer = await app.inject('/health');
  return [answer.statusCode, answer.json()];
};
const item = (id: number): OutboxItem => ({ id, effect: { kind: 'publish-desired', devices: [] } });

const OK = [200, { status: 'ok', store: 'ok', outbox: 'ok' }];

test('a server whose store answers and whose outbox moves is well', async () => {
  expect(await health()).toEqual(OK);
  for (let id = 1; id < 5; id++) {
    outbox = [item(id)];
    expect(await health()).toEqual(OK);
    time += 59_000;
  }
});

test('work that does not move for a minute is told', async () => {
  outbox = [item(1)];
  expect(await health()).toEqual(OK);
  time += 60_000;
  expect(await health()).toEqual([503, { status: 'failing', store: 'ok', outbox: 'stuck' }]);
  outbox = [];
  expect(await health()).toEqual(OK);
});

test('a store that fails is told, without its reasons', async () => {
  fails = true;
  expect(await health()).toEqual([503, { status: 'failing', store: 'failing', outbox: 'ok' }]);
});

test('health is asked of the store at most every half second, however many ask', async () => {
  const first = await health();
  fails = true;
  const answers = await Promise.all(Array.from({ length: 20 }, () => app.inject('/health')));
  expect(answers.map(({ statusCode }) => statusCode)).toEqual(Array<number>(20).fill(Number(first[0])));
});
