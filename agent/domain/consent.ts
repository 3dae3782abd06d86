/**
 * What local programs may say about an update that wants to install or to activate: consent, or not now. Both are
 * bounded, so that no program of a device can keep it from its updates forever.
 */
import { z } from 'zod';
import { Id } from '#shared/ids.ts';
import { byPresentClock, Moment, momentOf, passedMs } from './moment.ts';

/** Before the standby slot is written, and before the device switches over. */
export const Step = z.enum(['install', 'activation']);
export type Step = z.infer<typeof Step>;

export type ConsentPolicy = {
  /** How long a step waits for a word at all; 0: it goes on unless it was deferred. */
  askMs: number;
  /** How often a step may be deferred, and for how long each time. */
  deferralsMax: number;
  deferMsMax: number;
};

/** What was said about one step of one deployment. */
const said = {
  deployment: Id,
  step: Step,
  deferrals: z.number().int().min(0),
  /** Of the newest deferral: who asked for it, and why. */
  reason: z.string().nullable(),
  consented: z.boolean(),
};
const Deferred = z.object({ at: Moment, ms: z.number().min(0) });
const Timed = z.object({ ...said, asked: Moment, deferred: Deferred.nullable() });
/** An earlier agent knew only the clock. */
const Clocked = z
  .object({ ...said, askedAt: z.number().int(), deferredUntil: z.number().int().nullable() })
  .transform(({ askedAt, deferredUntil, ...rest }) => {
    const asked = momentOf(askedAt);
    const ms = Math.max(0, (deferredUntil ?? 0) - askedAt);
    return { ...rest, asked, deferred: deferredUntil === null ? null : { at: asked, ms } };
  });
export const Word = z.union([Timed, Clocked]);
export type Word = z.infer<typeof Word>;

export const askFor = (deployment: Id, step: Step, now: Moment): Word => ({
  deployment,
  step,
  asked: now,
  deferrals: 0,
  deferred: null,
  reason: null,
  consented: false,
});

/**
 * How much longer to wait, and for what; null: go on. Whatever was done to the clock, and however the policy has
 * changed, never longer than it allows.
 */
export const waitFor = (
  word: Word,
  policy: ConsentPolicy,
  now: Moment,
): { why: 'deferred' | 'asked'; forMs: number } | null => {
  const leftMs = (at: Moment, ms: number): number => ms - Math.max(0, passedMs(at, now));
  const { deferred } = word;
  const deferredMs = deferred === null ? 0 : leftMs(deferred.at, Math.min(deferred.ms, policy.deferMsMax));
  if (deferredMs > 0) return { why: 'deferred', forMs: deferredMs };
  if (word.consented || word.deferrals > 0) return null;
  const askedMs = leftMs(word.asked, policy.askMs);
  return askedMs > 0 ? { why: 'asked', forMs: askedMs } : null;
};

/** The clock was set: the same word by the present one; undefined when nothing has changed. */
export const wordByPresentClock = (word: Word, now: Moment): Word | undefined => {
  const asked = byPresentClock(word.asked, now);
  const at = word.deferred === null ? undefined : byPresentClock(word.deferred.at, now);
  if (asked === undefined && at === undefined) return undefined;
  const deferred = word.deferred === null || at === undefined ? word.deferred : { ...word.deferred, at };
  return { ...word, asked: asked ?? word.asked, deferred };
};

/** Refuses a deferral too many; one that asks for too long gets what is allowed. */
export const defer = (
  word: Word,
  ms: number,
  reason: string | null,
  policy: ConsentPolicy,
  now: Moment,
): { ok: true; word: Word } | { ok: false; why: string } => {
  if (word.deferrals >= policy.deferralsMax)
    return { ok: false, why: `it was deferred ${word.deferrals} times already, and goes on` };
  const deferred = { at: now, ms: Math.max(0, Math.min(ms, policy.deferMsMax)) };
  return { ok: true, word: { ...word, deferrals: word.deferrals + 1, deferred, reason, consented: false } };
};

export const consent = (word: Word): Word => ({ ...word, consented: true, deferred: null });
