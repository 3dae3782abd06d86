/**
 * A device in memory for simulations: slots that keep state, a network and applications that a seed makes good or bad.
 */
import { outcomeOf } from '#agent/domain/install.ts';
import type { Effect, InstallEvent, InstallState, Offer } from '#agent/domain/install-state.ts';
import type { Memory } from '#agent/domain/memory.ts';
import { evidenceOf, standbyOf } from '#agent/domain/restart-evidence.ts';
import type { SlotName } from '#agent/domain/slots.ts';
import { Id, manifestPath, Sha256, unreachable } from '#shared/ids.ts';
import type { Uptime } from '#shared/machine-uptime.ts';
import type { Signed } from '#shared/messages.ts';

const PRODUCT = Id.parse('gateway');
const COMPATIBLE = Id.parse('gw-test');

export const offerOf = (number: number, seq = number): Offer => ({
  seq,
  expires: 10_000_000,
  install: {
    kind: 'install',
    deployment: Id.parse(`dep-${number}`),
    rollout: Id.parse(`rol-${number}`),
    product: PRODUCT,
    version: `1.0.${number}`,
    compatible: COMPATIBLE,
    securityCounter: number,
    path: manifestPath(PRODUCT, `1.0.${number}`, COMPATIBLE),
    sha256: Sha256.parse(number.toString(16).padStart(64, '0')),
    length: 100,
  },
});

export const freshMemory = (): Memory => ({
  install: { state: 'idle' },
  desiredSeq: 0,
  last: null,
  floor: 0,
  reportSeq: 0,
});

export const receipt: Signed = { payload: '{}', keyId: Sha256.parse('0'.repeat(64)), sig: '00' };

/** Of a machine that never boots again. */
export const UPTIME: Uptime = { bootId: 'boot-1', uptimeMs: 5_000 };

export type EventOf<E = InstallEvent> = E extends { at: number } ? Omit<E, 'at'> : never;

/** What the slots are made of; `verified` is whether what was written was also read back. */
export type ModelSlots = {
  active: SlotName | null;
  trial: { slot: SlotName; triesLeft: number; deployment: string } | null;
  content: Record<SlotName, { deployment: string; verified: boolean } | null>;
  runs: SlotName | null;
};

export const freshSlots = (): ModelSlots => ({
  active: 'a',
  trial: null,
  content: { a: { deployment: 'before', verified: true }, b: null },
  runs: 'a',
});

const error = (code: 'FETCH_FAILED' | 'SELFTEST_FAILED' | 'REVERT_FAILED' | 'WRITE_VERIFY' | 'WRITE_FAILED') => ({
  code,
  message: code,
});

/** Boots as the adapter does: a trial with tries left, counted first; or else the active slot. */
const boot = (slots: ModelSlots): void => {
  if (slots.trial !== null && slots.trial.triesLeft > 0) {
    slots.trial.triesLeft -= 1;
    slots.runs = slots.trial.slot;
  } else slots.runs = slots.active;
};
const bootTrial = (slots: ModelSlots, slot: SlotName): EventOf => {
  boot(slots);
  return slots.runs === slot
    ? { kind: 'booted-trial', uptime: UPTIME }
    : { kind: 'booted-other', why: 'no tries left' };
};

/** Performs one effect on the model. `lucky` decides what can go either way; false for bad luck. */
export const performOnModel = (
  effect: Effect,
  state: InstallState,
  slots: ModelSlots,
  lucky: () => boolean,
): EventOf | undefined => {
  if (effect === 'boot') {
    boot(slots);
    return undefined;
  }
  if (state.state === 'idle') throw new Error(`${effect} without a deployment`);
  if (effect === 'check-manifest') {
    return lucky()
      ? { kind: 'manifest-checked', slot: standbyOf(slots) }
      : { kind: 'failed', error: error('FETCH_FAILED') };
  }
  if (effect === 'await-permission') return { kind: 'permitted' };
  if (effect === 'sign-receipt') return { kind: 'signed', receipt };
  if (effect === 'send-receipt') return lucky() ? { kind: 'acknowledged' } : undefined;
  if (effect === 'after-commit' || effect === 'after-revert') return undefined;
  if (effect === 'clean-up') return { kind: 'cleaned' };
  if (effect === 'confirm-offer') return lucky() ? { kind: 'confirmed' } : { kind: 'withdrawn', seq: state.offer.seq };
  if (!('slot' in state)) throw new Error(`${effect} in ${state.state}, which has no slot`);
  return performOnSlot(effect, state, slots, lucky);
};

const performOnSlot = (
  effect: Exclude<
    Effect,
    | 'boot'
    | 'check-manifest'
    | 'await-permission'
    | 'after-commit'
    | 'after-revert'
    | 'sign-receipt'
    | 'send-receipt'
    | 'clean-up'
    | 'confirm-offer'
  >,
  state: Exclude<InstallState, { state: 'idle' }> & { slot: SlotName },
  slots: ModelSlots,
  lucky: () => boolean,
): EventOf | undefined => {
  const { slot } = state;
  const { deployment } = state.offer.install;
  switch (effect) {
    case 'fetch':
      if (slots.active === slot) throw new Error('the active slot would be emptied');
      if (slots.content[slot]?.verified === true && slots.trial === null && lucky()) {
        slots.content[slot] = { deployment, verified: true };
        return { kind: 'found-installed' };
      }
      slots.content[slot] = null;
      return lucky() ? { kind: 'fetched' } : { kind: 'failed', error: error('FETCH_FAILED') };
    case 'install':
      if (slots.active === slot) throw new Error('the active slot would be written');
      slots.content[slot] = { deployment, verified: false };
      if (!lucky()) return { kind: 'failed', error: error('WRITE_VERIFY') };
      slots.content[slot] = { deployment, verified: true };
      return { kind: 'installed' };
    case 'recheck':
      return lucky() ? { kind: 'installed' } : { kind: 'failed', error: error('WRITE_VERIFY') };
    case 'inspect':
      return { kind: evidenceOf(slots, state) };
    case 'activate':
      if (slots.content[slot]?.verified !== true) throw new Error('an unverified slot would be activated');
      slots.trial = { slot, triesLeft: 3, deployment };
      return bootTrial(slots, slot);
    case 'boot-trial':
      return bootTrial(slots, slot);
    case 'watch-trial':
      return lucky() ? { kind: 'passed' } : { kind: 'failed', error: error('SELFTEST_FAILED') };
    case 'commit':
      if (slots.trial !== null) slots.active = slots.trial.slot;
      slots.trial = null;
      if (slots.runs === null) boot(slots);
      // The commit's answer may be lost, not the commit.
      return lucky() ? { kind: 'committed' } : { kind: 'failed', error: error('WRITE_FAILED') };
    case 'revert':
      if (slots.active === slot) return { kind: 'found-active' };
      if (!lucky()) {
        if (slots.runs === null) boot(slots);
        return { kind: 'failed', error: error('REVERT_FAILED') };
      }
      slots.trial = null;
      boot(slots);
      return { kind: 'booted-other', why: '' };
    case 'verify-revert':
      return slots.runs === slot ? { kind: 'failed', error: error('REVERT_FAILED') } : { kind: 'revert-verified' };
    default:
      return unreachable(effect);
  }
};

export const outcomeIn = (memory: Memory): string | undefined => outcomeOf(memory.install);
