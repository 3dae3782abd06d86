import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Contact, isEnough } from '#agent/domain/contact.ts';
import { type HealthEvent, type HealthVerdict, startHealth, stepHealth } from '#agent/domain/health.ts';
import { HealthPolicy } from '#shared/manifest.ts';

const CHECK = { kind: 'command', command: ['true'] } as const;
const POLICY = HealthPolicy.parse({ checks: [CHECK, CHECK], soakMs: 1_000, deadlineMs: 10_000 });

/** The verdict after each event, from the beginning of a trial. */
const verdicts = (events: HealthEvent[], policy = POLICY, elapsedMs = 0): HealthVerdict[] => {
  let state = startHealth(policy, elapsedMs);
  return events.map((event) => {
    const { next, verdict } = stepHealth(state, event, policy);
    state = next;
    return verdict;
  });
};
const last = (events: HealthEvent[], policy = POLICY, elapsedMs = 0): HealthVerdict =>
  verdicts(events, policy, elapsedMs).at(-1)!;

const up = (at: number): HealthEvent => ({ kind: 'process-up', at });
const exit = (at: number): HealthEvent => ({ kind: 'process-exited', at, why: 'it exited with code 3' });
const BROKER: Contact = { reach: 'broker' };
const NOWHERE: Contact = { reach: 'unknown' };
const server = (at: number, contact: Contact = BROKER): HealthEvent => ({ kind: 'server', at, contact });
const pass = (at: number, check: number): HealthEvent => ({ kind: 'checked', at, check, ok: true, message: '' });
const flunk = (at: number, check: number): HealthEvent => ({ kind: 'checked', at, check, ok: false, message: 'sick' });
const tick = (at: number): HealthEvent => ({ kind: 'tick', at });
const WELL = [up(0), pass(100, 0), pass(200, 1), server(300)];

test('a version that is well for the soak time is healthy', () => {
  expect(last([...WELL, tick(1_299)])).toBe('waiting');
  expect(last([...WELL, tick(1_300)])).toBe('healthy');
});

test('the soak begins when the last thing becomes well, whatever the order', () => {
  expect(last([server(0), pass(0, 1), up(0), tick(900), pass(1_000, 0), tick(1_999)])).toBe('waiting');
  expect(last([server(0), pass(0, 1), up(0), tick(900), pass(1_000, 0), tick(2_000)])).toBe('healthy');
});

test('a check that fails in between, or a server that is lost, begins the soak again', () => {
  for (const [bad, good] of [
    [flunk(800, 1), pass(900, 1)],
    [server(800, NOWHERE), server(900)],
  ] as const) {
    expect(last([...WELL, bad, good, tick(1_800)])).toBe('waiting');
    expect(last([...WELL, bad, good, tick(1_900)])).toBe('healthy');
  }
});

test('an exit of the process fails at once', () => {
  const failed = { failed: { code: 'TRIAL_CRASHED', message: 'it exited with code 3' } };
  expect(last([exit(0)])).toEqual(failed);
  expect(last([...WELL, exit(1_299)])).toEqual(failed);
});

test('at the deadline it fails, and says what was missing', () => {
  const sick = last([...WELL, flunk(5_000, 1), tick(10_000)]);
  expect(sick).toEqual({
    failed: { code: 'SELFTEST_FAILED', message: 'after 10000 ms: check 2 of 2 fails: sick' },
  });
  const lonely = last([up(0), pass(0, 0), pass(0, 1), server(0, NOWHERE), tick(10_000)]);
  expect(lonely).toEqual({
    failed: { code: 'TRIAL_DEADLINE', message: 'after 10000 ms: the server is not reachable' },
  });
  const late = last([up(0), pass(0, 0), pass(0, 1), server(9_500), tick(10_000)]);
  expect(late).toEqual({
    failed: { code: 'TRIAL_DEADLINE', message: 'after 10000 ms: the soak time was not over' },
  });
});

test('a policy that does not ask for the server does not wait for it', () => {
  const policy = { ...POLICY, serverContact: false, checks: [] };
  expect(last([up(0), tick(1_000)], policy)).toBe('healthy');
});

test('each policy is content with what it asks for, and says what is missing otherwise', () => {
  const http: Contact = { reach: 'http' };
  const network: Contact = { reach: 'network', why: 'the gateway 10.0.0.1 answers' };
  const none: Contact = { reach: 'none', why: 'there is no default route' };
  const verdictOf = (serverContact: HealthPolicy['serverContact'], contact: Contact) => {
    const policy = { ...POLICY, serverContact, checks: [] };
    const verdict = last([up(0), server(0, contact), tick(10_000)], policy);
    return typeof verdict === 'string' ? verdict : verdict.failed.message.replace('after 10000 ms: ', '');
  };
  const table = ([false, 'network', true, 'broker'] as const).map((asked) =>
    [none, network, http, BROKER].map((contact) => verdictOf(asked, contact) === 'healthy'),
  );
  expect(table).toEqual([
    [true, true, true, true],
    [false, true, true, true],
    [false, false, true, true],
    [false, false, false, true],
  ]);
  expect(verdictOf('network', none)).toBe('the network is broken: there is no default route');
  expect(verdictOf(true, network)).toBe(
    'the server is not reachable, though the network works: the gateway 10.0.0.1 answers',
  );
  expect(verdictOf('broker', http)).toBe('the MQTT broker is not reachable, though the server answers over HTTP');
});

test('a check is called by its name where it has one', () => {
  const policy = { ...POLICY, checks: [{ ...CHECK, command: ['true'], timeoutMs: 1, name: 'database' }] };
  expect(last([up(0), flunk(0, 0), tick(10_000)], policy)).toHaveProperty(
    'failed.message',
    'after 10000 ms: the check database fails: sick',
  );
});

test('a trial that goes on after a restart of the agent keeps its deadline but not its soak', () => {
  expect(last([up(9_500), pass(9_500, 0), pass(9_500, 1), server(9_500), tick(9_999)], POLICY, 9_500)).toBe('waiting');
  expect(last([up(9_500), tick(10_000)], POLICY, 9_500)).toHaveProperty('failed.code', 'TRIAL_DEADLINE');
  expect(last([up(8_000), pass(8_000, 0), pass(8_000, 1), server(8_000), tick(9_000)], POLICY, 8_000)).toBe('healthy');
});

const policies = fc.record({
  checks: fc.nat(3).map((count) => Array.from({ length: count }, () => CHECK)),
  soakMs: fc.nat(500),
  deadlineMs: fc.integer({ min: 100, max: 2_000 }),
  serverContact: fc.constantFrom(true, false, 'network' as const, 'broker' as const),
});
const at = fc.nat(2_500);
const anyContact = fc.constantFrom<Contact[]>(
  BROKER,
  NOWHERE,
  { reach: 'http' },
  { reach: 'network', why: 'the gateway answers' },
  { reach: 'none', why: 'there is no default route' },
);
const anyEvent: fc.Arbitrary<HealthEvent> = fc.oneof(
  fc.record({ kind: fc.constant('process-up' as const), at }),
  fc.record({ kind: fc.constant('process-exited' as const), at, why: fc.constant('gone') }),
  fc.record({
    kind: fc.constant('checked' as const),
    at,
    check: fc.nat(3),
    ok: fc.boolean(),
    message: fc.constant(''),
  }),
  fc.record({ kind: fc.constant('server' as const), at, contact: anyContact }),
  fc.record({ kind: fc.constant('tick' as const), at }),
);
const inOrder = fc.array(anyEvent, { maxLength: 30 }).map((events) => events.sort((a, b) => a.at - b.at));
const parse = (policy: object): HealthPolicy => HealthPolicy.parse(policy);

test('a verdict is final', () => {
  fc.assert(
    fc.property(policies.map(parse), inOrder, (policy, events) => {
      const all = verdicts(events, policy);
      const first = all.findIndex((verdict) => verdict !== 'waiting');
      expect(new Set(first === -1 ? [] : all.slice(first)).size).toBeLessThanOrEqual(1);
    }),
  );
});

test('no trial is undecided at its deadline, even if the clock goes back', () => {
  fc.assert(
    fc.property(policies.map(parse), fc.array(anyEvent, { maxLength: 30 }), (policy, events) => {
      expect(last([...events, tick(policy.deadlineMs)], policy)).not.toBe('waiting');
    }),
  );
});

test('healthy means: up, passed, reachable, without a break for the whole soak and before the deadline', () => {
  fc.assert(
    fc.property(policies.map(parse), inOrder, (policy, events) => {
      const decided = verdicts(events, policy).findIndex((verdict) => verdict !== 'waiting');
      if (decided === -1 || verdicts(events, policy)[decided] !== 'healthy') return;
      // An oracle that looks backwards: the latest word on everything, and when it last changed to good.
      const seen = events.slice(0, decided + 1);
      const goodSince = (matches: (event: HealthEvent) => boolean, good: (event: HealthEvent) => boolean): number => {
        const words = seen.filter(matches);
        const lastBad = words.findLastIndex((event) => !good(event));
        expect(words.length).toBeGreaterThan(lastBad + 1);
        return words[lastBad + 1]!.at;
      };
      const since = [
        goodSince(
          (event) => event.kind.startsWith('process'),
          (event) => event.kind === 'process-up',
        ),
      ];
      for (const index of policy.checks.keys()) {
        since.push(
          goodSince(
            (event) => event.kind === 'checked' && event.check === index,
            (event) => event.kind === 'checked' && event.ok,
          ),
        );
      }
      if (policy.serverContact !== false) {
        since.push(
          goodSince(
            (event) => event.kind === 'server',
            (event) => event.kind === 'server' && isEnough(event.contact, policy.serverContact),
          ),
        );
      }
      const wellSince = Math.max(...since);
      expect(seen.at(-1)!.at - wellSince).toBeGreaterThanOrEqual(policy.soakMs);
      expect(wellSince + policy.soakMs).toBeLessThanOrEqual(policy.deadlineMs);
    }),
    { numRuns: 500 },
  );
});
