/** Performs activation, trial, commit and revert: from here on the slots know what is true. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Manifest } from '#shared/manifest.ts';
import { snapshotLimit } from '../application/data-snapshot.ts';
import { checkEnvironment, hookEnvironment } from '../application/hook-environment.ts';
import type { Journey } from '../domain/install-state.ts';
import { evidenceOf, standbyOf } from '../domain/restart-evidence.ts';
import type { SlotName, SlotResult, SlotsView } from '../domain/slots.ts';
import { trialUsedMs } from '../domain/trial-time.ts';
import { runTrialHealth } from './health.ts';
import { healthHooks } from './hooks.ts';
import type { EventOf } from './machine.ts';
import {
  failed,
  type InSlot,
  type NextEvent,
  type PerformOptions,
  partsOf,
  readable,
  settleData,
} from './perform-parts.ts';

const SELECTOR_ATTEMPTS_MAX = 5;
const REVERT_RUNNING_MS_MAX = 15_000;
const NOT_COMMITTED = { code: 'PRECONDITION', message: 'the boot selector has not committed the slot' } as const;

export const trialEffects = (options: PerformOptions) => {
  const { config, slots, files, now, log } = options;
  const { pause, hooks, keptManifest } = partsOf(options);

  const inspect = async (journey: InSlot): NextEvent => {
    const inspected = await slots.inspect();
    if (!inspected.ok) return failed(inspected.code, inspected.message);
    return committedAnyway(inspected.view, journey) ?? { kind: evidenceOf(inspected.view, journey) };
  };

  /** There is no way back from what the boot selector has committed. */
  const committedAnyway = ({ active }: SlotsView, journey: InSlot): EventOf | undefined => {
    if (journey.state !== 'reverting' || active !== journey.slot) return undefined;
    if (journey.commitStands === true) return { kind: 'found-active' };
    return failed('REVERT_FAILED', `slot ${active} is committed, and not by this agent`);
  };

  const activate = async (journey: InSlot, signal: AbortSignal): NextEvent => {
    const manifest = await keptManifest(journey);
    const settled = await settleData(options);
    if (!settled.ok) return failed(settled.code, settled.message);
    // The device's fault, not the release's: nothing is stopped for it.
    const surroundings = await files.environment();
    if (!surroundings.ok) return failed('PRECONDITION', surroundings.message);
    const before = await hooks('before-activate', manifest, journey, signal);
    if (!before.ok) return failed('HOOK_FAILED', before.message);
    if (signal.aborted) return undefined;
    const kept = await keepData(manifest, journey, signal);
    if (signal.aborted) return undefined;
    if (!kept.ok) return failed(kept.code, kept.message);
    const { deployment } = journey.offer.install;
    const activated = await slots.activate(journey.slot, { tries: config.trialTries, deployment });
    if (!activated.ok) return failed(activated.code, activated.message);
    return bootTrial(journey, signal);
  };

  /** The trial's own snapshot of the data, if it is to have one. From here to its boot no application runs. */
  const keepData = async (manifest: Manifest, journey: InSlot, signal: AbortSignal): Promise<SlotResult> => {
    const limit = slots.process === null ? null : snapshotLimit(manifest, config);
    if (limit === null) return { ok: true };
    const fits = await options.data.check(limit.bytesMax);
    if (!fits.ok) return fits;
    await slots.stop();
    const { deployment } = journey.offer.install;
    return options.data.take({ slot: journey.slot, deployment }, limit.bytesMax, signal);
  };

  const bootTrial = async (journey: InSlot, signal: AbortSignal): NextEvent => {
    const booted = await slots.boot(signal);
    if (booted.booted === journey.slot && booted.trial) return { kind: 'booted-trial', uptime: await options.uptime() };
    if (booted.uncounted !== undefined) return failed(booted.uncounted.code, booted.uncounted.message);
    const why =
      booted.booted === null
        ? booted.why
        : `slot ${booted.booted} runs: the trial has no tries left, or its slot does not boot`;
    return { kind: 'booted-other', why: readable(why) };
  };

  const watchTrial = async (journey: InSlot, signal: AbortSignal): NextEvent => {
    const manifest = await keptManifest(journey);
    const checks = [...manifest.health.checks, ...healthHooks(manifest), ...config.health.checks];
    const hook = manifest.hooks.some(({ when }) => when === 'health') ? { SLUICE_HOOK: 'health' } : {};
    const environment = await checkEnvironment(manifest, manifest.run, journey.slot, files);
    const verdict = await runTrialHealth({
      policy: { ...manifest.health, checks },
      elapsedMs: trialUsedMs(journey, { ...(await options.uptime()), wall: now() }),
      ...(config.application.port === undefined ? {} : { port: config.application.port }),
      folder: slots.workFolder(journey.slot),
      dataDir: files.dataDir,
      environment: { ...(await hookEnvironment(journey, slots, files)), ...environment, ...hook },
      process: manifest.run === undefined ? null : slots.process,
      contact: () => options.contact(),
      signal,
      onWaiting: (sentence) => log.debug({ event: 'trial-waits' }, `on trial: ${sentence}`),
    });
    if (verdict.verdict === 'aborted') return undefined;
    if (verdict.verdict === 'healthy') return { kind: 'passed' };
    return failed(verdict.code, await files.withoutSecrets(verdict.message));
  };

  /** The boot selector's writes are few and small: a failure of one is tried again before anything is concluded. */
  const insist = async (act: () => Promise<SlotResult>, signal: AbortSignal): Promise<SlotResult> => {
    for (let attempt = 0; ; attempt += 1) {
      const result = await act().catch(
        (error: unknown): SlotResult => ({ ok: false, code: 'WRITE_FAILED', message: String(error) }),
      );
      if (result.ok || signal.aborted || attempt + 1 >= SELECTOR_ATTEMPTS_MAX) return result;
      log.warn({ event: 'selector-retried', code: result.code }, result.message);
      await pause(attempt, signal);
    }
  };

  /** Committed is committed: without these only the device's own checks go on. */
  const keepChecks = (manifest: Manifest, { offer }: InSlot): Promise<void> =>
    options.keepChecks(manifest, offer.install.sha256).catch((error: unknown) => {
      log.warn({ event: 'checks-not-kept', err: error }, 'the checks of the committed version could not be kept');
    });

  const commit = async (journey: InSlot, signal: AbortSignal): NextEvent => {
    // A power cut between the verdict and its record in the boot selector may have booted the old slot: only what runs
    // can be committed.
    const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
    const pending = inspected.ok && inspected.view.trial?.slot === journey.slot;
    if (pending && running !== null && running.slot !== journey.slot) {
      const booted = await bootTrial(journey, signal);
      if (signal.aborted) return undefined;
      if (booted?.kind === 'booted-other') return failed('TRIAL_CRASHED', booted.why);
      if (booted?.kind === 'failed') return booted;
    }
    const answer = await insist(() => slots.commit(), signal);
    if (signal.aborted) return undefined;
    // What the boot selector says is true, whatever became of the answer.
    const seen = await slots.inspect().catch(() => undefined);
    const isCommitted = seen?.ok === true ? seen.view.active === journey.slot : answer.ok;
    if (!isCommitted) {
      const { code, message } = answer.ok ? NOT_COMMITTED : answer;
      return failed(code, message);
    }
    await settleCommitted(journey, signal).catch((error: unknown) => {
      log.error({ event: 'commit-not-settled', err: error }, 'what follows from the commit was not all done');
    });
    return signal.aborted ? undefined : { kind: 'committed' };
  };

  /** Nothing in here can undo the commit. */
  const settleCommitted = async (journey: InSlot, signal: AbortSignal): Promise<void> => {
    const settled = await settleData(options);
    if (!settled.ok) log.error({ event: 'snapshot-not-settled', code: settled.code }, settled.message);
    // After a restart nothing runs yet.
    if ((await slots.running()) === null) await slots.boot(signal);
    const manifest = await keptManifest(journey).catch(() => undefined);
    if (manifest !== undefined) await keepChecks(manifest, journey);
  };

  /** Of an outcome that is recorded: they can change nothing, and the slots say which slot it is about. */
  const afterwards =
    (when: 'after-commit' | 'after-revert', slotOf: (view: SlotsView) => SlotName | null) =>
    async (journey: Journey, signal: AbortSignal): NextEvent => {
      const manifest = await keptManifest(journey).catch(() => undefined);
      const inspected = await slots.inspect();
      const slot = inspected.ok ? slotOf(inspected.view) : null;
      if (manifest === undefined || slot === null) return undefined;
      const there: InSlot = { ...journey, slot };
      const ran = await hooks(when, manifest, there, signal);
      if (!ran.ok && !signal.aborted) log.error({ event: 'hook-failed' }, `${ran.message}; the outcome stands`);
      return undefined;
    };

  const revert = async (journey: InSlot, signal: AbortSignal): NextEvent => {
    // Before anything else writes there.
    if (slots.process !== null) await options.keepLog(journey.offer.install, 'application');
    const before = await slots.inspect();
    const committed = before.ok ? committedAnyway(before.view, journey) : undefined;
    const answer: SlotResult = committed === undefined ? await insist(() => slots.revert(), signal) : { ok: true };
    if (signal.aborted) return undefined;
    // Here, too, the boot selector knows better than the answer.
    const reverted: SlotResult = !answer.ok && (await isOver(journey)) ? { ok: true } : answer;
    if (committed?.kind === 'found-active') return committed;
    if (committed !== undefined || !reverted.ok) {
      // No try of a trial can be counted either, so what boots is what ran before. A boot loader counts by itself, and
      // is not asked.
      if (slots.process !== null && (committed === undefined || (await slots.running()) === null))
        await slots.boot(signal);
      if (reverted.ok) return committed;
      return failed('REVERT_FAILED', `${reverted.code}: ${reverted.message}`);
    }
    // Where activation failed before it changed anything, what ran goes on running.
    const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
    const untouched = inspected.ok && running !== null && !running.trial && running.slot === inspected.view.active;
    if (untouched && running.slot !== journey.slot) return { kind: 'booted-other', why: '' };
    await slots.stop();
    // Nothing boots on data that the old version may not understand: that is tried again at each start of the agent.
    const settled = await insist(() => settleData(options), signal);
    if (signal.aborted) return undefined;
    if (!settled.ok) return failed('REVERT_FAILED', `${settled.code}: ${settled.message}`);
    const booted = await slots.boot(signal);
    if (booted.booted === journey.slot)
      return failed('REVERT_FAILED', `slot ${journey.slot} still runs after the revert`);
    return { kind: 'booted-other', why: '' };
  };

  const isOver = async (journey: InSlot): Promise<boolean> => {
    const seen = await slots.inspect().catch(() => undefined);
    return seen?.ok === true && seen.view.trial === null && seen.view.active !== journey.slot;
  };

  const verifyRevert = async (journey: InSlot, signal: AbortSignal): NextEvent => {
    const deadline = performance.now() + REVERT_RUNNING_MS_MAX;
    for (;;) {
      const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
      if (inspected.ok) {
        const { active, trial } = inspected.view;
        if (trial !== null || active === journey.slot)
          return failed('REVERT_FAILED', 'the boot selector still names the new version');
        // Before the first commit there is nothing to go back to, and nothing runs.
        if (running === null ? active === null : running.slot === active) return { kind: 'revert-verified' };
        if (performance.now() >= deadline)
          return failed('REVERT_FAILED', `what ran before, slot ${active}, does not come up`);
      } else if (performance.now() >= deadline) return failed('REVERT_FAILED', inspected.message);
      await sleep(50, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return undefined;
    }
  };

  return {
    inspect,
    activate,
    bootTrial,
    watchTrial,
    commit,
    revert,
    verifyRevert,
    afterCommit: afterwards('after-commit', ({ active }) => active),
    afterRevert: afterwards('after-revert', standbyOf),
  };
};
