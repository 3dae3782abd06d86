import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { REVERT_TRANSITIONS_MAX, TRANSITIONS_MAX } from '#agent/domain/exceeded.ts';
import { hasEnded, isBeforeActivation, stepInstall, TRANSITIONS } from '#agent/domain/install.ts';
import { type Effect, InstallState, type StateName } from '#agent/domain/install-state.ts';
import { Memory, stepMemory } from '#agent/domain/memory.ts';
import { type EventOf, freshMemory, freshSlots, offerOf, outcomeIn, performOnModel, receipt, UPTIME } from './model.ts';

const STATES = InstallState.options.map((option) => option.shape.state.value);
const EFFECTS: Effect[] = [
  'boot',
  'check-manifest',
  'await-permission',
  'fetch',
  'install',
  'recheck',
  'confirm-offer',
  'inspect',
  'activate',
  'boot-trial',
  'watch-trial',
  'commit',
  'revert',
  'verify-revert',
  'after-commit',
  'after-revert',
  'sign-receipt',
  'send-receipt',
  'clean-up',
];

/** Steps through events and gives the states on the way. */
const chain = (
  events: EventOf[],
  from: Memory = freshMemory(),
): { states: StateName[]; memory: Memory; effects: Effect[] } => {
  let memory = from;
  let effects: Effect[] = [];
  const states = events.map((event, index) => {
    const step = stepMemory(memory, { ...event, at: index + 1 });
    memory = step.next;
    effects = step.effects;
    return memory.install.state;
  });
  return { states, memory, effects };
};

const offered: EventOf = { kind: 'offered', offer: offerOf(1) };
const failure: EventOf = { kind: 'failed', error: { code: 'FETCH_FAILED', message: 'no route' } };
const upToReady: EventOf[] = [
  offered,
  { kind: 'manifest-checked', slot: 'b' },
  { kind: 'permitted' },
  { kind: 'fetched' },
  { kind: 'installed' },
];
const upToTrial: EventOf[] = [...upToReady, { kind: 'confirmed' }, { kind: 'booted-trial', uptime: UPTIME }];
const reportIt: EventOf[] = [{ kind: 'signed', receipt }, { kind: 'acknowledged' }, { kind: 'cleaned' }];

describe('the table', () => {
  test('knows each state and event once, and only effects that exist', () => {
    const keys = TRANSITIONS.map(([state, event]) => `${state} ${event}`);
    expect(new Set(keys).size).toBe(keys.length);
    for (const [state, , next, effects] of TRANSITIONS) {
      expect(STATES).toContain(state);
      expect(STATES).toContain(next);
      for (const effect of effects.split(' ').filter(Boolean)) expect(EFFECTS).toContain(effect);
    }
  });

  test('says for every state what a restart does', () => {
    const restarts = TRANSITIONS.filter(([, event]) => event === 'restarted').map(([state]) => state);
    expect(restarts.sort()).toEqual([...STATES].sort());
  });

  test('before activation every state can be withdrawn; from activation on none', () => {
    const withdrawable = TRANSITIONS.filter(([, event, next]) => event === 'withdrawn' && next === 'withdrawn').map(
      ([state]) => state,
    );
    expect(withdrawable).toEqual(['accepted', 'waiting', 'fetching', 'verified', 'ready']);
  });

  test('leads to committed only from committing, and there only from a trial, but for what was committed before', () => {
    const into = (name: StateName) => [
      ...new Set(TRANSITIONS.filter(([state, , next]) => next === name && state !== name).map(([state]) => state)),
    ];
    // From `reverting` where a commit's answer failed, and not the commit.
    expect(into('committed')).toEqual(['accepted', 'committing', 'reverting']);
    const shortcut = TRANSITIONS.filter(([state, , next]) => state === 'accepted' && next === 'committed');
    expect(shortcut.map(([, event]) => event)).toEqual(['found-running']);
    expect(into('committing')).toEqual(['trial']);
    expect(into('trial')).toEqual(['activating']);
    expect(into('activating')).toEqual(['ready']);
  });

  test('stands in docs/agent.md as it is here', () => {
    const page = readFileSync(join(import.meta.dirname, '../../../docs/agent.md'), 'utf8');
    const rows = [...page.matchAll(/^\| `([a-z-]+)` \| `([a-z-]+)` \| `([a-z-]+)` \| (.*?) ?\|$/gm)].map(
      ([, state, event, next, effects]) => [state, event, next, (effects ?? '').replaceAll('`', '').trim()],
    );
    expect(rows).toEqual(TRANSITIONS.map((row) => [...row]));
  });
});

describe('a journey', () => {
  test('that goes well', () => {
    const { states, memory } = chain([...upToTrial, { kind: 'passed' }, { kind: 'committed' }, ...reportIt]);
    expect(states).toEqual([
      'accepted',
      'waiting',
      'fetching',
      'verified',
      'ready',
      'activating',
      'trial',
      'committing',
      'committed',
      'committed',
      'reported',
      'idle',
    ]);
    expect(memory).toMatchObject({ desiredSeq: 1, floor: 1, last: { deployment: 'dep-1', outcome: 'committed' } });
  });

  test('to what the standby slot holds already fetches and writes nothing', () => {
    const found: EventOf[] = [...upToReady.slice(0, 3), { kind: 'found-installed' }];
    expect(chain(found)).toMatchObject({
      states: ['accepted', 'waiting', 'fetching', 'ready'],
      effects: ['confirm-offer'],
    });
    // Killed before that was recorded, it looks again; after it, it reads the slot back again.
    expect(chain([...upToReady.slice(0, 3), { kind: 'restarted' }]).effects).toEqual(['boot', 'fetch']);
    expect(chain([...found, { kind: 'restarted' }]).effects).toEqual(['boot', 'recheck']);
  });

  test('whose trial fails goes back, and the floor stays where it was', () => {
    const { states, memory } = chain([
      ...upToTrial,
      failure,
      { kind: 'booted-other', why: '' },
      { kind: 'revert-verified' },
      ...reportIt,
    ]);
    expect(states.slice(6)).toEqual([
      'trial',
      'reverting',
      'verifying-revert',
      'reverted',
      'reverted',
      'reported',
      'idle',
    ]);
    expect(memory).toMatchObject({ floor: 0, last: { outcome: 'reverted' } });
  });

  test('whose revert fails too says both reasons', () => {
    const { memory } = chain([
      ...upToTrial,
      failure,
      { kind: 'failed', error: { code: 'REVERT_FAILED', message: 'disk' } },
    ]);
    expect(memory.install).toMatchObject({
      state: 'failed',
      error: { code: 'REVERT_FAILED', message: 'disk; reverted because of FETCH_FAILED: no route' },
    });
  });

  test.each([1, 2, 3, 4, 5])(
    'that is withdrawn after %i steps ends as withdrawn, and may be offered again',
    (steps) => {
      const { states, memory } = chain([...upToReady.slice(0, steps), { kind: 'withdrawn', seq: 2 }, ...reportIt]);
      expect(states.at(-4)).toBe('withdrawn');
      expect(memory.desiredSeq).toBe(2);
      expect(chain([{ kind: 'offered', offer: offerOf(1, 3) }], memory).states).toEqual(['accepted']);
    },
  );

  test('that has activated ignores a withdrawal, and the withdrawing document is looked at again afterwards', () => {
    const { states, memory } = chain([...upToTrial, { kind: 'withdrawn', seq: 2 }]);
    expect(states.at(-1)).toBe('trial');
    expect(memory.desiredSeq).toBe(1);
  });

  test('that is superseded is withdrawn, and leaves the newer document unseen so that it is accepted next', () => {
    const { states, memory } = chain([...upToReady, { kind: 'superseded' }, ...reportIt]);
    expect(states.at(-4)).toBe('withdrawn');
    expect(memory.desiredSeq).toBe(1);
    expect(chain([{ kind: 'offered', offer: offerOf(2) }], memory).states).toEqual(['accepted']);
  });

  test('whose document is signed again goes on with the later expiry, undisturbed', () => {
    const renewed = { ...offerOf(1, 2), expires: 20_000_000 };
    const { states, memory, effects } = chain([...upToReady, { kind: 'renewed', offer: renewed }]);
    expect(states.at(-1)).toBe('ready');
    expect(effects).toEqual([]);
    expect(memory).toMatchObject({ desiredSeq: 2, install: { since: 5, offer: { expires: 20_000_000 } } });
  });

  test('that has ended otherwise than withdrawn is not begun again', () => {
    const { memory } = chain([...upToTrial, { kind: 'passed' }, { kind: 'committed' }, ...reportIt]);
    const again = chain([{ kind: 'offered', offer: offerOf(1, 5) }], memory);
    expect(again.states).toEqual(['idle']);
    expect(again.memory.desiredSeq).toBe(5);
  });

  test('that failed is begun again when the server asks for another attempt, and each attempt once', () => {
    const failed: EventOf = { kind: 'failed', error: { code: 'FETCH_FAILED', message: 'no route' } };
    const { memory } = chain([{ kind: 'offered', offer: offerOf(1) }, failed, ...reportIt]);
    expect(chain([{ kind: 'offered', offer: offerOf(1, 5) }], memory).states).toEqual(['idle']);
    const { install, ...rest } = offerOf(1, 6);
    const second = { ...rest, install: { ...install, attempt: 2 } };
    const again = chain([{ kind: 'offered', offer: second }], memory);
    expect(again.states).toEqual(['accepted']);
    const ended = chain([failed, ...reportIt], again.memory);
    expect(chain([{ kind: 'offered', offer: { ...second, seq: 7 } }], ended.memory).states).toEqual(['idle']);
  });

  test('keeps the beginning of its trial over restarts', () => {
    const { memory } = chain([
      ...upToTrial,
      { kind: 'restarted' },
      { kind: 'found-on-trial' },
      { kind: 'booted-trial', uptime: { bootId: 'boot-2', uptimeMs: 1 } },
    ]);
    expect(memory.install).toMatchObject({ state: 'trial', since: 7, began: UPTIME });
  });

  test('is not reported before its receipt is signed, and signs only one', () => {
    const committed = chain([...upToTrial, { kind: 'passed' }, { kind: 'committed' }]).memory;
    expect(chain([{ kind: 'acknowledged' }], committed).states).toEqual(['committed']);
    const signed = chain([{ kind: 'signed', receipt }], committed).memory;
    const another = { ...receipt, sig: 'ff' };
    expect(chain([{ kind: 'signed', receipt: another }], signed).memory).toBe(signed);
    expect(chain([{ kind: 'restarted' }], signed)).toMatchObject({
      effects: ['boot', 'send-receipt'],
      memory: { install: { receipt } },
    });
  });

  test('25: the revert itself fails, or boots never end, revert: bounded, ends in failed, reported (restarted again and again)', () => {
    expect(chain([...upToReady, ...restarts(TRANSITIONS_MAX)])).toMatchObject({
      memory: { install: { state: 'failed', error: { code: 'TRANSITIONS_EXCEEDED' } } },
    });
    expect(chain([...upToTrial, ...restarts(TRANSITIONS_MAX + 2 * REVERT_TRANSITIONS_MAX)])).toMatchObject({
      memory: { install: { state: 'failed', error: { code: 'TRANSITIONS_EXCEEDED' } } },
    });
  });
});

const restarts = (count: number): EventOf[] => Array.from({ length: count }, () => ({ kind: 'restarted' }));
const upToCommitting: EventOf[] = [...upToTrial, { kind: 'passed' }];

describe('a deployment whose agent is killed again and again ends as the boot selector says, and its application runs', () => {
  const asked = TRANSITIONS_MAX + REVERT_TRANSITIONS_MAX;
  const timesUp = (events: EventOf[], count: number): EventOf[] => [...events, ...restarts(count - events.length)];

  test('committed, in whichever state it learns of that', () => {
    const found: EventOf = { kind: 'found-active' };
    const boots: Effect[] = ['boot', 'after-commit', 'sign-receipt'];
    for (const from of [upToTrial, upToCommitting]) {
      const goingBack = chain(timesUp(from, TRANSITIONS_MAX + 1));
      expect(goingBack.memory.install).toMatchObject({ state: 'reverting', commitStands: true });
      expect(chain([found], goingBack.memory)).toMatchObject({ states: ['committed'], effects: boots });
      const outcome = chain([...timesUp(from, asked + 1), found]);
      expect(outcome).toMatchObject({ effects: boots, memory: { install: { state: 'committed' } } });
    }
    const inTime = chain([...timesUp(upToCommitting, TRANSITIONS_MAX), found]);
    expect(inTime).toMatchObject({ effects: boots, memory: { install: { state: 'committed' } } });
  });

  test('committed, when the commit succeeded and its answer did not come', () => {
    const { memory } = chain([...upToCommitting, failure]);
    expect(memory.install).toMatchObject({ state: 'reverting', commitStands: true });
    expect(chain([{ kind: 'found-active' }], memory).states).toEqual(['committed']);
  });

  test('a trial that failed is not committed, whatever else has committed it', () => {
    const { memory } = chain([...upToTrial, failure]);
    expect(chain([{ kind: 'found-active' }], memory).memory).toBe(memory);
  });

  test('reverted, when the boot selector was reverted, though what came after it never ended', () => {
    const after: Effect[] = ['boot', 'after-revert', 'sign-receipt'];
    const reverting = [...upToTrial, failure];
    expect(chain([...timesUp(reverting, asked + 1), { kind: 'found-untouched' }])).toMatchObject({
      effects: after,
      memory: { install: { state: 'reverted', error: { code: 'FETCH_FAILED' } } },
    });
    expect(chain(timesUp([...reverting, { kind: 'booted-other', why: '' }], asked + 1))).toMatchObject({
      effects: after,
      memory: { install: { state: 'reverted', error: { code: 'FETCH_FAILED' } } },
    });
  });

  test('failed, when the trial is still pending, or before anything was activated', () => {
    expect(chain([...timesUp([...upToTrial, failure], asked + 1), { kind: 'found-on-trial' }])).toMatchObject({
      effects: ['boot', 'sign-receipt'],
      memory: { install: { state: 'failed', error: { code: 'TRANSITIONS_EXCEEDED' } } },
    });
    expect(chain(timesUp(upToReady, TRANSITIONS_MAX + 1))).toMatchObject({
      effects: ['boot', 'sign-receipt'],
      memory: { install: { state: 'failed', error: { code: 'TRANSITIONS_EXCEEDED' } } },
    });
  });
});

test('how often hooks were begun is forgotten with their deployment', () => {
  const hookRuns = [{ hook: 0, runs: 3, good: true }];
  const committed = chain([...upToCommitting, { kind: 'committed' }]).memory;
  const { states, memory } = chain(reportIt, { ...committed, hookRuns });
  expect(states.at(-1)).toBe('idle');
  expect(memory).not.toHaveProperty('hookRuns');
  expect(chain(reportIt.slice(0, 2), { ...committed, hookRuns }).memory).toMatchObject({ hookRuns });
});

const anyEvent: fc.Arbitrary<EventOf> = fc.oneof(
  fc.constantFrom<EventOf>(
    ...(
      [
        'superseded',
        'restarted',
        'permitted',
        'fetched',
        'found-installed',
        'installed',
        'confirmed',
        'found-untouched',
        'found-on-trial',
        'found-active',
        'passed',
        'committed',
        'revert-verified',
        'acknowledged',
        'cleaned',
      ] as const
    ).map((kind) => ({ kind })),
    { kind: 'booted-trial', uptime: UPTIME },
    { kind: 'booted-other', why: 'why' },
    { kind: 'signed', receipt },
    failure,
    { kind: 'manifest-checked', slot: 'b' },
  ),
  fc.integer({ min: 1, max: 5 }).map((number): EventOf => ({ kind: 'offered', offer: offerOf(number) })),
  fc.integer({ min: 1, max: 5 }).map((number): EventOf => ({ kind: 'renewed', offer: offerOf(number) })),
  fc.integer({ min: 1, max: 9 }).map((seq): EventOf => ({ kind: 'withdrawn', seq })),
);

describe('whatever happens', () => {
  test('every state fits the journal, time does not run backwards, and numbers only grow', () => {
    fc.assert(
      fc.property(fc.array(anyEvent, { maxLength: 200 }), (events) => {
        let memory = freshMemory();
        events.forEach((event, index) => {
          const { next, effects } = stepMemory(memory, { ...event, at: index });
          expect(Memory.parse(JSON.parse(JSON.stringify(next)))).toEqual(next);
          expect(next.desiredSeq).toBeGreaterThanOrEqual(memory.desiredSeq);
          expect(next.floor).toBeGreaterThanOrEqual(memory.floor);
          expect(next === memory ? effects : []).toEqual([]);
          memory = next;
        });
      }),
    );
  });

  test('nothing is committed that was not on trial, and the floor rises only then', () => {
    fc.assert(
      fc.property(fc.array(anyEvent, { maxLength: 300 }), (events) => {
        let memory = freshMemory();
        let onTrial: string | undefined;
        events.forEach((event, index) => {
          const before = memory;
          memory = stepMemory(memory, { ...event, at: index }).next;
          const { install } = memory;
          if (install.state === 'idle') onTrial = undefined;
          else if (install.state === 'trial') onTrial = install.offer.install.deployment;
          const committed = install.state === 'committed' ? install.offer.install.deployment : onTrial;
          expect(committed).toBe(onTrial);
          expect(memory.floor > before.floor ? install.state : 'committed').toBe('committed');
        });
      }),
    );
  });

  test('no state takes more than its share of transitions', () => {
    fc.assert(
      fc.property(fc.array(anyEvent, { minLength: 300, maxLength: 600 }), (events) => {
        let install: InstallState = { state: 'idle' };
        events.forEach((event, index) => {
          install = stepInstall(install, { ...event, at: index }).next;
          const taken = install.state === 'idle' || hasEnded(install) ? 0 : install.transitions;
          // After activation what leads on may go on: there are four such states.
          const most = isBeforeActivation(install) ? TRANSITIONS_MAX : TRANSITIONS_MAX + 2 * REVERT_TRANSITIONS_MAX + 4;
          expect(taken).toBeLessThanOrEqual(most);
        });
      }),
    );
  });

  /**
   * A whole device: each effect is performed on slots that keep state, with luck from the seed, and the agent may be
   * killed after each record, before or after the effect. The model throws when the active slot would be touched or an
   * unverified one activated.
   */
  test('every deployment ends, is acknowledged once with the outcome that the boot selector says, and its application runs', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 400, maxLength: 400 }),
        fc.integer({ min: 0, max: 4 }),
        fc.constantFrom(2, 10),
        (luck, badness, killedOneIn) => {
          let draws = 0;
          const draw = (): number => luck[draws++ % luck.length]!;
          const slots = freshSlots();
          let memory = freshMemory();
          const acknowledged: (string | undefined)[] = [];
          const pending: EventOf[] = [offered];
          // First with faults, later without: then it must come to its end.
          for (
            let turn = 0;
            turn < 600 && (turn === 0 || memory.install.state !== 'idle' || pending.length > 0);
            turn += 1
          ) {
            const faults = turn < 300;
            const lucky = (): boolean => !faults || draw() >= badness;
            const event: EventOf = pending.shift() ?? { kind: 'restarted' };
            const before = memory;
            const step = stepMemory(memory, { ...event, at: turn });
            memory = step.next;
            if (memory.install.state === 'reported' && before.install.state !== 'reported')
              acknowledged.push(outcomeIn(before));
            const killed = (): boolean => faults && draw() < 10 / killedOneIn;
            let alive = !killed();
            for (const effect of step.effects) {
              if (!alive) break;
              const next = performOnModel(effect, memory.install, slots, lucky);
              alive = !killed();
              if (alive && next !== undefined) pending.push(next);
            }
            if (!alive) {
              pending.splice(0, pending.length, { kind: 'restarted' });
              slots.runs = null;
            }
            const committed = slots.active === null ? null : slots.content[slots.active];
            expect(committed?.verified).toBe(true);
            const tried = slots.trial === null ? committed : slots.content[slots.trial.slot];
            expect(tried?.verified).toBe(true);
          }
          expect(memory.install.state).toBe('idle');
          expect(acknowledged).toHaveLength(1);
          expect(slots.active).toBe(acknowledged[0] === 'committed' ? 'b' : 'a');
          // A trial that could not even be ended has failed, and its tries say whether it runs.
          expect(slots.trial === null ? 'failed' : acknowledged[0]).toBe('failed');
          expect([slots.active, slots.trial?.slot]).toContain(slots.runs);
        },
      ),
      { numRuns: 500 },
    );
  });
});
