/**
 * What local programs may say about an update that wants to install or to activate: consent, or not now. Both are bounded, so that no
 * program of a device can keep it from its updates for ever.
 */
import { z } from 'zod';
import { Id } from '#shared/ids.ts';

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
export const Word = z.object({
  deployment: Id,
  step: Step,
  askedAt: z.number().int(),
  deferrals: z.number().int().min(0),
  deferredUntil: z.number().int().nullable(),
  /** Of the newest deferral: who asked for it, and why. */
  reason: z.string().nullable(),
  consented: z.boolean(),
});
export type Word = z.infer<typeof Word>;

export const askFor = (deployment: Id, step: Step, now: number): Word => ({
  deployment,
  step,
  askedAt: now,
  deferrals: 0,
  deferredUntil: null,
  reason: null,
  consented: false,
});

/** Until when to wait, and for what; null: go on. A clock that was set back holds nothing longer than the policy allows. */
export const waitFor = (
  word: Word,
  policy: ConsentPolicy,
  now: number,
): { why: 'deferred' | 'asked'; until: number } | null => {
  const deferredUntil = Math.min(word.deferredUntil ?? 0, now + policy.deferMsMax);
  if (deferredUntil > now) return { why: 'deferred', until: deferredUntil };
  if (word.consented || word.deferrals > 0) return null;
  const askedUntil = Math.min(word.askedAt, now) + policy.askMs;
  return askedUntil > now ? { why: 'asked', until: askedUntil } : null;
};

/** Refuses a deferral too many; one that asks for too long gets what is allowed. */
export const defer = (
  word: Word,
  ms: number,
  reason: string | null,
  policy: ConsentPolicy,
  now: number,
): { ok: true; word: Word } | { ok: false; why: string } => {
  if (word.deferrals >= policy.deferralsMax)
    return { ok: false, why: `it was deferred ${word.deferrals} times already, and goes on` };
  const until = now + Math.max(0, Math.min(ms, policy.deferMsMax));
  return { ok: true, word: { ...word, deferrals: word.deferrals + 1, deferredUntil: until, reason, consented: false } };
};

export const consent = (word: Word): Word => ({ ...word, consented: true, deferredUntil: null });
