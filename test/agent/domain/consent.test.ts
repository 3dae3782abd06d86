import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  askFor,
  type ConsentPolicy,
  consent,
  defer,
  Word,
  waitFor,
  wordByPresentClock,
} from '#agent/domain/consent.ts';
import type { Moment } from '#agent/domain/moment.ts';
import { Id } from '#shared/ids.ts';

const DEPLOYMENT = Id.parse('dep-1');
const policy: ConsentPolicy = { askMs: 1_000, deferralsMax: 2, deferMsMax: 60_000 };
/** By every clock at once. */
const at = (ms: number): Moment => ({ bootId: 'boot-1', uptimeMs: ms, wall: ms });
const asked = askFor(DEPLOYMENT, 'install', at(10_000));

test('without a word a step waits as long as the policy says, and goes on', () => {
  expect(waitFor(asked, policy, at(10_500))).toEqual({ why: 'asked', forMs: 500 });
  expect(waitFor(asked, policy, at(11_000))).toBeNull();
  expect(waitFor(asked, { ...policy, askMs: 0 }, at(10_000))).toBeNull();
});

test('consent ends the wait, and a deferral too', () => {
  expect(waitFor(consent(asked), policy, at(10_000))).toBeNull();
  const deferred = defer(asked, 5_000, 'a patient is connected', policy, at(10_000));
  if (!deferred.ok) throw new Error(deferred.why);
  expect(waitFor(deferred.word, policy, at(12_000))).toEqual({ why: 'deferred', forMs: 3_000 });
  expect(waitFor(deferred.word, policy, at(15_000))).toBeNull();
  expect(waitFor(consent(deferred.word), policy, at(12_000))).toBeNull();
});

test('a deferral too many is refused, and one for too long is shortened', () => {
  const first = defer(asked, 10 ** 9, null, policy, at(10_000));
  if (!first.ok) throw new Error(first.why);
  expect(waitFor(first.word, policy, at(10_000))).toEqual({ why: 'deferred', forMs: 60_000 });
  const second = defer(first.word, 1, null, policy, at(20_000));
  if (!second.ok) throw new Error(second.why);
  expect(defer(second.word, 1, null, policy, at(20_000))).toMatchObject({
    ok: false,
    why: expect.stringContaining('2 times'),
  });
});

test('whatever local programs say, and however often, a step is held back for no longer than the policy allows', () => {
  const said = fc.array(
    fc.record({ afterMs: fc.nat(200_000), say: fc.constantFrom('defer', 'consent', 'nothing'), ms: fc.nat(1_000_000) }),
    { maxLength: 30 },
  );
  fc.assert(
    fc.property(said, fc.nat(5), fc.nat(100_000), fc.nat(100_000), (words, deferralsMax, askMs, deferMsMax) => {
      const bounds = { askMs, deferralsMax, deferMsMax };
      let [word, now, heldMs] = [askFor(DEPLOYMENT, 'activation', at(0)), 0, 0];
      for (const { afterMs, say, ms } of words) {
        const wait = waitFor(word, bounds, at(now));
        if (wait === null) break;
        expect(wait.forMs).toBeGreaterThan(0);
        const passed = Math.min(afterMs, wait.forMs);
        heldMs += passed;
        now += passed;
        if (say === 'consent') word = consent(word);
        const deferred = say === 'defer' ? defer(word, ms, null, bounds, at(now)) : undefined;
        if (deferred?.ok === true) word = deferred.word;
      }
      expect(heldMs).toBeLessThanOrEqual(askMs + deferralsMax * deferMsMax);
    }),
  );
});

const YEAR = 31_536_000_000;
const HOUR = 3_600_000;

test('a clock that is set by hours or years, either way, neither shortens nor lengthens a wait, also across a restart', () => {
  const deferred = defer(asked, 60_000, null, policy, at(10_000));
  if (!deferred.ok) throw new Error(deferred.why);
  for (const setBy of [-YEAR, -HOUR, HOUR, YEAR, 50 * YEAR]) {
    const then = (ms: number): Moment => ({ ...at(ms), wall: ms + setBy });
    const word = Word.parse(JSON.parse(JSON.stringify(deferred.word)));
    expect([setBy, waitFor(word, policy, then(30_000))]).toEqual([setBy, { why: 'deferred', forMs: 40_000 }]);
    expect([setBy, waitFor(word, policy, then(70_000))]).toEqual([setBy, null]);
    expect([setBy, waitFor(asked, policy, then(10_999))]).toEqual([setBy, { why: 'asked', forMs: 1 }]);
    expect([setBy, waitFor(asked, policy, then(11_000))]).toEqual([setBy, null]);
  }
});

test('a reboot after the clock was set: the word was put by the new clock, and goes on', () => {
  const deferred = defer(asked, 60_000, null, policy, at(10_000));
  if (!deferred.ok) throw new Error(deferred.why);
  const set = wordByPresentClock(deferred.word, { ...at(20_000), wall: 20_000 + 50 * YEAR });
  expect(wordByPresentClock(set!, { ...at(20_500), wall: 20_500 + 50 * YEAR })).toBeUndefined();
  const rebooted: Moment = { bootId: 'boot-2', uptimeMs: 5_000, wall: 40_000 + 50 * YEAR };
  expect(waitFor(set!, policy, rebooted)).toEqual({ why: 'deferred', forMs: 30_000 });
  // Where the new boot's clock knows nothing, what the boot has lasted counts.
  expect(waitFor(set!, policy, { ...rebooted, wall: 0 })).toEqual({ why: 'deferred', forMs: 55_000 });
});

test('the word that an earlier agent kept goes on, bounded from now', () => {
  const { asked: _asked, deferred: _deferred, ...rest } = asked;
  const known = Word.parse({ ...rest, deferrals: 1, askedAt: 10_000, deferredUntil: 40_000 });
  expect(waitFor(known, policy, at(20_000))).toEqual({ why: 'deferred', forMs: 20_000 });
  const back = { ...at(5_000), wall: -YEAR };
  const adopted = wordByPresentClock(known, back);
  expect(waitFor(adopted!, policy, { ...back, uptimeMs: 35_000 })).toBeNull();
});
