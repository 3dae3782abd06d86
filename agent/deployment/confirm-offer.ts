/** Waiting as the instruction says, and the question whether the offer still stands, right before activation. */
import { setTimeout as sleep } from 'node:timers/promises';
import { deviceRoutes } from '#shared/device-api.ts';
import { mayActivateAt, type Timing } from '#shared/windows.ts';
import { asksForServer, isEnough } from '../domain/contact.ts';
import type { Journey } from '../domain/install-state.ts';
import { turnAt } from '../domain/spread.ts';
import { mayActivateUnconfirmed } from '../domain/unconfirmed.ts';
import { leafOf, sameInstall } from './desired.ts';
import { failed, type NextEvent, type PerformOptions, partsOf } from './perform-parts.ts';

/** The clock may be set, and the instruction renewed, while the device waits. */
const HELD_LOOK_MS = 1_000;
const CONFIRMED_WITHIN_MS = 86_400_000;
/**
 * A device that waits asks again what it was told, so that it knows the time, and offline has an offer that has not
 * expired.
 */
const ASK_AGAIN_MS = 6 * 3_600_000;
const ASK_RETRY_MS = 300_000;

const waitWords = (at: number | undefined): string =>
  at === undefined ? 'waiting until told to go on' : `waiting until ${new Date(at).toISOString()}, as told`;

export const confirming = (options: PerformOptions) => {
  const { time, now, log, trust } = options;
  const { pause, keptManifest } = partsOf(options);

  /**
   * Asks what is desired. What is newer than the offer is verified like any other document, and then withdraws, renews
   * or supersedes. `silent`: no answer came at all.
   */
  const ask = async (signal: AbortSignal): Promise<'stands' | 'withdrawn' | 'newer' | 'refused' | 'silent'> => {
    const { path, answer } = deviceRoutes.desired;
    const asked = await options.http.getJson(path, answer, signal);
    const current = options.machine().memory().install;
    if (current.state === 'idle') return 'refused';
    if (!asked.ok) {
      if (!signal.aborted)
        log.info(
          { event: 'confirmation-retried', code: asked.code },
          `the server cannot be asked whether the offer stands: ${asked.message}`,
        );
      return asked.answered ? 'refused' : 'silent';
    }
    time.learn(asked.value.serverTime);
    const { desired } = asked.value;
    if (desired === null) return 'withdrawn';
    const leaf = leafOf(desired);
    if (leaf === undefined || leaf.seq !== current.offer.seq || !sameInstall(current.offer, leaf.instruction)) {
      options.inbox().receive(desired);
      return 'newer';
    }
    // Signed again: an offline device has an offer that has not expired for longer.
    if (leaf.expires > current.offer.expires && leaf.instruction.kind === 'install') {
      const checked = await trust.checkDesired(desired);
      const { seq, expires, instruction: install } = leaf;
      if (checked.ok) options.machine().send({ kind: 'renewed', offer: { seq, expires, install } });
      else
        log.warn({ event: 'renewal-refused', code: checked.code }, `the offer goes on as it was: ${checked.message}`);
    }
    return 'stands';
  };

  /**
   * Waits until the newest instruction lets the device go on, which it knows offline too. An offer may expire
   * meanwhile: returns until when it may still be confirmed then, by `performance.now()`. Undefined when it was
   * aborted, or has nothing to wait for any more.
   */
  const untilTime = async (
    allowedAt: (timing: Timing, now: number) => number | undefined,
    state: 'waiting' | 'ready',
    signal: AbortSignal,
  ): Promise<number | undefined> => {
    let askedAt = time.known() ? performance.now() : Number.NEGATIVE_INFINITY;
    // Not all devices that wait for the same moment at once.
    const share = 0.75 + Math.random() / 4;
    for (let told = false; !signal.aborted; told = true) {
      const { install } = options.machine().memory();
      if (install.state !== state) return undefined;
      // Of an unknown time only this is known: whatever waits for a time has to wait.
      const present = time.now() ?? 0;
      const allowed = allowedAt(install.offer.install, present);
      const turn = { device: options.identity.device, since: install.since, spreadMs: options.spread.ms() };
      const at = allowed === undefined ? undefined : turnAt(install.offer.install, allowed, turn);
      if (at !== undefined && at <= present) return told ? performance.now() + CONFIRMED_WITHIN_MS : 0;
      if (!told) log.info({ event: 'held-back', until: at ?? null }, `${state}: ${waitWords(at)}`);
      if (performance.now() - askedAt >= share * (time.known() ? ASK_AGAIN_MS : ASK_RETRY_MS)) {
        await ask(signal);
        askedAt = performance.now();
        continue;
      }
      const waitMs = Math.min(HELD_LOOK_MS, (at ?? Number.POSITIVE_INFINITY) - present);
      await sleep(waitMs, undefined, { signal }).catch(() => undefined);
    }
    return undefined;
  };

  /**
   * What local programs say about the activation. Like `untilTime`: an offer that expires meanwhile may still be
   * confirmed.
   */
  const heldBack = async (waited: number, signal: AbortSignal): Promise<number | undefined> => {
    const { install } = options.machine().memory();
    if (install.state !== 'ready') return undefined;
    const { expires, install: instruction } = install.offer;
    const began = now();
    const held = await options.holds.wait(
      'activation',
      instruction.deployment,
      () => now() < expires || performance.now() < waited,
      signal,
    );
    if (held === 'aborted') return undefined;
    return held === 'go' && now() > expires && began <= expires ? performance.now() + CONFIRMED_WITHIN_MS : waited;
  };

  /**
   * Does the offer still stand? Unasked nothing is activated; without an answer the offer expires, or is activated
   * unconfirmed where it says so.
   */
  const confirmOffer = async (_journey: Journey, signal: AbortSignal): NextEvent => {
    let confirmBy = 0;
    let silent: { since: number; asked: number } | undefined;
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      const told = await untilTime(mayActivateAt, 'ready', signal);
      const waited = told === undefined ? undefined : await heldBack(told, signal);
      const current = options.machine().memory().install;
      if (waited === undefined || current.state !== 'ready') return undefined;
      confirmBy = Math.max(confirmBy, waited);
      if (now() >= current.offer.expires && performance.now() >= confirmBy)
        return failed('INSTRUCTION_EXPIRED', 'the offer expired before the server could confirm it');
      const since = performance.now();
      const answer = await ask(signal);
      if (signal.aborted) return undefined;
      if (answer === 'withdrawn') return { kind: 'withdrawn', seq: current.offer.seq };
      if (answer === 'stands') {
        // By the server's clock it may be too early.
        const present = time.now() ?? 0;
        if ((mayActivateAt(current.offer.install, present) ?? Number.POSITIVE_INFINITY) <= present)
          return { kind: 'confirmed', time: present };
        continue;
      }
      silent =
        answer === 'silent' && !isEnough(options.contact(), true)
          ? { since: silent?.since ?? since, asked: (silent?.asked ?? 0) + 1 }
          : undefined;
      if (silent !== undefined) {
        const silentMs = performance.now() - silent.since;
        const serverContact = asksForServer((await keptManifest(current)).health.serverContact);
        const facts = { trusted: trust.time(), silentMs, asked: silent.asked, serverContact };
        if (mayActivateUnconfirmed(current.offer, facts, options.config.unreachableMs)) {
          log.warn(
            { event: 'activating-unconfirmed', asked: silent.asked },
            `the server was asked ${silent.asked} times in ${Math.round(silentMs / 1_000)} s and did not answer; the offer allows to activate all the same`,
          );
          return { kind: 'confirmed', time: time.now() ?? 0 };
        }
      }
      await pause(attempt, signal);
    }
    return undefined;
  };

  return { untilTime, confirmOffer };
};
