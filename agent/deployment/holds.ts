/**
 * What holds an update back on this device: an inhibitor file, a local program's deferral, or the wait for its consent.
 * Kept in `consent.json`, so that a restart does not begin the count again.
 */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import type { Id } from '#shared/ids.ts';
import type { Uptime } from '#shared/machine-uptime.ts';
import {
  askFor,
  type ConsentPolicy,
  consent,
  defer,
  type Step,
  Word,
  waitFor,
  wordByPresentClock,
} from '../domain/consent.ts';
import type { Moment } from '../domain/moment.ts';
import type { Log } from '../log.ts';
import { seal, unseal } from '../slots/sealed.ts';

/** `until` is in milliseconds since 1970; null: as long as the file is there, and the offer good. */
export type Hold = {
  step: Step;
  why: 'inhibited' | 'deferred' | 'asked';
  until: number | null;
  reason: string | null;
  deferralsLeft: number;
};

export type Holds = {
  /**
   * Waits until nothing holds the step back. `expired`: an inhibitor file was there for longer than the offer is good.
   */
  wait(step: Step, deployment: Id, isGood: () => boolean, signal: AbortSignal): Promise<'go' | 'expired' | 'aborted'>;
  /** What is held back now. */
  hold(): Hold | null;
  /** Refused when nothing waits, or too often. */
  defer(ms: number, reason: string | null): Promise<{ ok: true; hold: Hold | null } | { ok: false; why: string }>;
  consent(): Promise<{ ok: true } | { ok: false; why: string }>;
};

const LOOK_MS = 500;
const UNTIL_MS_MIN = 1_000;
const INHIBITORS: Record<Step, string> = { install: 'inhibit', activation: 'inhibit-activation' };

export const openHolds = (options: {
  dataDir: string;
  policy: ConsentPolicy;
  now: () => number;
  uptime: () => Promise<Uptime>;
  log: Log;
  changed: () => void;
}): Holds => {
  const { dataDir, policy, log } = options;
  const file = join(dataDir, 'consent.json');
  let word: Word | undefined;
  let held: Hold | null = null;

  const present = async (): Promise<Moment> => ({ ...(await options.uptime()), wall: options.now() });
  const keep = async (next: Word): Promise<void> => {
    word = next;
    // On a full disk it is known until the next restart.
    await writeFileDurably(file, seal(next), 0o600).catch(() => undefined);
  };
  const wordFor = async (step: Step, deployment: Id): Promise<Word> => {
    const bytes = word === undefined ? await readFileIfThere(file) : undefined;
    const known = word ?? (bytes === undefined ? undefined : unseal(bytes, Word));
    if (known?.step === step && known.deployment === deployment) return known;
    return askFor(deployment, step, await present());
  };
  const show = (next: Hold | null): void => {
    const isNews = JSON.stringify(next) !== JSON.stringify(held);
    held = next;
    if (!isNews) return;
    if (next !== null) log.info({ event: next.why, step: next.step }, sentenceOf(next));
    options.changed();
  };
  /** The clock and the uptime are read one after the other: a difference of moments is no news. */
  const untilOf = (until: number): number =>
    Math.abs((held?.until ?? 0) - until) < UNTIL_MS_MIN ? held!.until! : until;
  /** What holds it back at this moment. */
  const look = async (step: Step): Promise<Hold | null> => {
    const { deferrals, reason } = word!;
    const deferralsLeft = Math.max(0, policy.deferralsMax - deferrals);
    const isInhibited = await access(join(dataDir, INHIBITORS[step])).then(
      () => true,
      () => false,
    );
    if (isInhibited) return { step, why: 'inhibited', until: null, reason: null, deferralsLeft };
    const now = await present();
    const changed = wordByPresentClock(word!, now);
    if (changed !== undefined) await keep(changed);
    const waits = waitFor(word!, policy, now);
    if (waits === null) return null;
    const { why, forMs } = waits;
    return { step, why, until: untilOf(now.wall + forMs), reason: why === 'deferred' ? reason : null, deferralsLeft };
  };

  return {
    hold: () => held,
    wait: async (step, deployment, isGood, signal) => {
      const known = await wordFor(step, deployment);
      if (known !== word) await keep(known);
      try {
        while (!signal.aborted) {
          const hold = await look(step);
          show(hold);
          if (hold === null) return 'go';
          if (hold.why === 'inhibited' && !isGood()) return 'expired';
          await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
        }
        return 'aborted';
      } finally {
        show(null);
      }
    },
    defer: async (ms, reason) => {
      if (held === null || word === undefined) return { ok: false, why: 'nothing waits to be deferred' };
      const deferred = defer(word, ms, reason, policy, await present());
      if (!deferred.ok) return deferred;
      await keep(deferred.word);
      if (held !== null) show(await look(held.step));
      return { ok: true, hold: held };
    },
    consent: async () => {
      if (held === null || word === undefined) return { ok: false, why: 'nothing waits for consent' };
      await keep(consent(word));
      return { ok: true };
    },
  };
};

/** For people. */
export const sentenceOf = ({ step, why, until, reason }: Hold): string => {
  const what = step === 'install' ? 'the install' : 'the activation';
  const by = until === null ? '' : ` until ${new Date(until).toISOString()}`;
  const because = reason === null ? '' : `: ${reason}`;
  if (why === 'inhibited') return `${what} waits as long as the file ${INHIBITORS[step]} exists`;
  return why === 'asked' ? `${what} waits for a local program's consent${by}` : `${what} is deferred${by}${because}`;
};
