import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { askFor, type ConsentPolicy, consent, defer, waitFor } from '#agent/domain/consent.ts';
import { Id } from '#shared/ids.ts';

const DEPLOYMENT = Id.parse('dep-1');
const policy: ConsentPolicy = { askMs: 1_000, deferralsMax: 2, deferMsMax: 60_000 };
const asked = askFor(DEPLOYMENT, 'install', 10_000);

test('without a word a step waits as long as the policy says, and goes on', () => {
  expect(waitFor(asked, policy, 10_500)).toEqual({ why: 'asked', until: 11_000 });
  expect(waitFor(asked, policy, 11_000)).toBeNull();
  expect(waitFor(asked, { ...policy, askMs: 0 }, 10_000)).toBeNull();
});

test('consent ends the wait, and a deferral too', () => {
  expect(waitFor(consent(asked), policy, 10_000)).toBeNull();
  const deferred = defer(asked, 5_000, 'a patient is connected', policy, 10_000);
  if (!deferred.ok) throw new Error(deferred.why);
  expect(waitFor(deferred.word, policy, 12_000)).toEqual({ why: 'deferred', until: 15_000 });
  expect(waitFor(deferred.word, policy, 15_000)).toBeNull();
  expect(waitFor(consent(deferred.word), policy, 12_000)).toBeNull();
});

test('a deferral too many is refused, and one for too long is shortened', () => {
  const first = defer(asked, 10 ** 9, null, policy, 10_000);
  if (!first.ok) throw new Error(first.why);
  expect(first.word.deferredUntil).toBe(70_000);
  const second = defer(first.word, 1, null, policy, 20_000);
  if (!second.ok) throw new Error(second.why);
  expect(defer(second.word, 1, null, policy, 20_000)).toMatchObject({
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
      let [word, now, heldMs] = [askFor(DEPLOYMENT, 'activation', 0), 0, 0];
      for (const { afterMs, say, ms } of words) {
        const wait = waitFor(word, bounds, now);
        if (wait === null) break;
        expect(wait.until).toBeGreaterThan(now);
        const passed = Math.min(afterMs, wait.until - now);
        heldMs += passed;
        now += passed;
        if (say === 'consent') word = consent(word);
        const deferred = say === 'defer' ? defer(word, ms, null, bounds, now) : undefined;
        if (deferred?.ok === true) word = deferred.word;
      }
      expect(heldMs).toBeLessThanOrEqual(askMs + deferralsMax * deferMsMax);
    }),
  );
});

test('a clock that is set back a year does not make a deferral longer than a deferral may be', () => {
  const year = 31_536_000_000;
  const deferred = defer(askFor(DEPLOYMENT, 'install', year), 60_000, null, policy, year);
  if (!deferred.ok) throw new Error(deferred.why);
  expect(waitFor(deferred.word, policy, 0)).toEqual({ why: 'deferred', until: 60_000 });
});
