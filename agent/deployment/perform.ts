/**
 * Performs the effects of the install state machine with the slots, the network, the trust store and the supervisor.
 * Every effect may be performed again after a crash. What comes out is the next event.
 */
import { rm } from 'node:fs/promises';
import type { DeviceErrorCode, Receipt } from '#shared/deployment.ts';
import { attemptOf, outcomeOf } from '../domain/install.ts';
import type { Effect, InstallState, Journey } from '../domain/install-state.ts';
import { crashPoint } from '../process/crash-point.ts';
import { isFull } from '../process/system-error.ts';
import { openTransfer } from '../transfer/transfer.ts';
import type { EventOf } from './machine.ts';
import { installEffects } from './perform-install.ts';
import {
  failed,
  type InSlot,
  manifestFile,
  type NextEvent,
  type PerformOptions,
  partsOf,
  runningNow,
  settleData,
} from './perform-parts.ts';
import { trialEffects } from './perform-trial.ts';

/** What an effect comes to when its code throws, which it should not: the deployment fails, the device goes on. */
const FAILURE_CODES: Partial<Record<Effect, DeviceErrorCode>> = {
  inspect: 'PRECONDITION',
  'check-manifest': 'PRECONDITION',
  'await-permission': 'PRECONDITION',
  fetch: 'FETCH_FAILED',
  install: 'WRITE_FAILED',
  recheck: 'WRITE_VERIFY',
  'confirm-offer': 'PRECONDITION',
  activate: 'WRITE_FAILED',
  'boot-trial': 'TRIAL_CRASHED',
  'watch-trial': 'SELFTEST_FAILED',
  commit: 'WRITE_FAILED',
  revert: 'REVERT_FAILED',
  'verify-revert': 'REVERT_FAILED',
};

const ROOM_MATTERS = new Set<Effect>(['check-manifest', 'await-permission', 'fetch', 'install', 'activate']);

export const failureOf = (effect: Effect, error: unknown): EventOf | undefined => {
  // Whatever could not be deleted is deleted the next time.
  if (effect === 'clean-up') return { kind: 'cleaned' };
  const code = FAILURE_CODES[effect];
  if (code === undefined) return undefined;
  // Before anything boots a full disk is the device's trouble and not the release's; after that it does not change what
  // has happened.
  const isRoom = isFull(error) && ROOM_MATTERS.has(effect);
  return failed(isRoom ? 'NO_SPACE' : code, error instanceof Error ? error.message : String(error));
};

export const openPerformer = (options: PerformOptions) => {
  const perform = effectsOf(options);
  return async (effect: Effect, state: InstallState, signal: AbortSignal): NextEvent => {
    if (effect === 'boot') {
      await perform.boot(signal);
      return undefined;
    }
    // Every other effect belongs to a deployment.
    return state.state === 'idle' ? undefined : perform[effect](state, signal);
  };
};

const effectsOf = (options: PerformOptions) => {
  const { folders, slots, now, log } = options;
  const { pauseFetch, keptManifest } = partsOf(options);
  const transfer = openTransfer({ ...options, pause: pauseFetch });
  const install = installEffects(options, transfer);
  const trial = trialEffects(options);

  const boot = async (signal: AbortSignal): Promise<void> => {
    const settled = await settleData(options);
    if (!settled.ok) log.error({ event: 'snapshot-not-settled', code: settled.code }, settled.message);
    // A selector that cannot be read says nothing about data, and may boot something all the same.
    if (!settled.ok && (await slots.inspect()).ok) return;
    const booted = await slots.boot(signal);
    if (booted.booted === null && !signal.aborted)
      log.info({ event: 'nothing-boots' }, `no application runs: ${booted.why}`);
  };

  const signReceipt = async (journey: Journey): NextEvent => {
    const { install: instruction } = journey.offer;
    const outcome = outcomeOf(journey);
    if (outcome === undefined) throw new Error(`${journey.state} has no outcome`);
    if (outcome === 'failed' || outcome === 'reverted') await options.keepLog(instruction, 'agent');
    const receipt: Receipt = {
      type: 'sluice/receipt/1',
      device: options.identity.device,
      deployment: instruction.deployment,
      rollout: instruction.rollout,
      product: instruction.product,
      version: instruction.version,
      manifest: instruction.sha256,
      outcome,
      ...attemptOf(journey),
      ...('error' in journey ? { error: journey.error } : {}),
      // What cannot be read now must not keep the outcome from being told.
      running: await runningNow(slots).catch(() => null),
      boot: options.boot,
      seq: await options.machine().nextSeq(),
      at: Math.max(0, now()),
    };
    return { kind: 'signed', receipt: options.identity.sign(receipt) };
  };

  const sendReceipt = async (): NextEvent => {
    options.onReceipt();
    return undefined;
  };

  const cleanUp = async (journey: Journey): NextEvent => {
    const committed = journey.state === 'reported' && journey.outcome === 'committed';
    const manifest = committed ? await keptManifest(journey).catch(() => undefined) : undefined;
    try {
      await transfer.keep(journey.offer.install.sha256, manifest);
    } finally {
      await rm(folders.downloads, { recursive: true, force: true });
    }
    await rm(manifestFile(folders), { force: true });
    crashPoint('perform.cleaned');
    return { kind: 'cleaned' };
  };

  return {
    boot,
    'check-manifest': install.checkManifest,
    'await-permission': install.awaitPermission,
    fetch: inSlot(install.fetch),
    install: inSlot(install.install),
    recheck: inSlot(install.recheck),
    'confirm-offer': install.confirmOffer,
    inspect: inSlot(trial.inspect),
    activate: inSlot(trial.activate),
    'boot-trial': inSlot(trial.bootTrial),
    'watch-trial': inSlot(trial.watchTrial),
    commit: inSlot(trial.commit),
    revert: inSlot(trial.revert),
    'verify-revert': inSlot(trial.verifyRevert),
    'after-commit': trial.afterCommit,
    'after-revert': trial.afterRevert,
    'sign-receipt': signReceipt,
    'send-receipt': sendReceipt,
    'clean-up': cleanUp,
  };
};

/** These effects come only in states that know their slot. */
const inSlot =
  (act: (journey: InSlot, signal: AbortSignal) => NextEvent) =>
  (journey: Journey, signal: AbortSignal): NextEvent =>
    'slot' in journey ? act(journey, signal) : Promise.reject(new Error(`${journey.state} has no slot`));
