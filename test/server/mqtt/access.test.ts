import { assert, constantFrom, oneof, property, string, stringMatching, tuple } from 'fast-check';
import { expect, test } from 'vitest';
import { may } from '#server/mqtt/access.ts';
import { Id } from '#shared/ids.ts';

const GW = Id.parse('gw-01');
const d = (rest: string): string => `sluice/v1/d/${rest}`;

const PUBLISH_ALLOWED = ['state', 'heartbeat', 'online', 'log'].map((channel) => d(`gw-01/up/${channel}`));
const SUBSCRIBE_ALLOWED = ['desired', 'ack'].map((channel) => d(`gw-01/down/${channel}`));
const NEVER = [
  '',
  '#',
  '+',
  '/',
  '$SYS/#',
  '$SYS/broker/heartbeat',
  `$share/server/${d('gw-01/down/desired')}`,
  `$share/server/${d('+/up/#')}`,
  d('#'),
  d('+/up/state'),
  d('+/down/desired'),
  d('gw-01/#'),
  d('gw-01/up/#'),
  d('gw-01/up/+'),
  d('gw-01/down/#'),
  d('gw-01/down/+'),
  d('gw-01/+/desired'),
  d('gw-02/up/state'),
  d('gw-02/down/desired'),
  d('gw-01/up'),
  d('gw-01/up/'),
  d('gw-01/up/state/'),
  d('gw-01/up/state/x'),
  d('gw-01/up/pack'),
  d('gw-01/up/STATE'),
  d('gw-01 /up/state'),
  d('gw-01\u0000/up/state'),
  'sluice/v2/d/gw-01/up/state',
  'sluice/v1/c/everyone',
  `/${d('gw-01/up/state')}`,
];

test.each(PUBLISH_ALLOWED)('a device may publish %s, and not subscribe to it', (topic) => {
  expect([may(GW, 'publish', topic), may(GW, 'subscribe', topic)]).toEqual([true, false]);
});
test.each(SUBSCRIBE_ALLOWED)('a device may subscribe to %s, and not publish it', (topic) => {
  expect([may(GW, 'publish', topic), may(GW, 'subscribe', topic)]).toEqual([false, true]);
});
test.each(NEVER)('a device may neither publish nor subscribe to %j', (topic) => {
  expect([may(GW, 'publish', topic), may(GW, 'subscribe', topic)]).toEqual([false, false]);
});

test('whatever the topic, what one device may do no other may', () => {
  const id = stringMatching(/^[A-Za-z0-9_-]{1,64}$/).map((text) => Id.parse(text));
  const topic = oneof(
    string(),
    tuple(id, constantFrom('up', 'down'), constantFrom('state', 'heartbeat', 'online', 'log', 'desired', 'ack')).map(
      (parts) => d(parts.join('/')),
    ),
  );
  assert(
    property(id, id, topic, constantFrom('publish', 'subscribe'), (one, other, topic, verb) => {
      expect(one !== other && may(one, verb, topic) && may(other, verb, topic)).toBe(false);
    }),
  );
});
