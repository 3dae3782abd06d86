/** Performs activation, trial, commit and revert: from here on the slots know what is true. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Manifest } from '#shared/manifest.ts';
import { snapshotLimit } from './data-snapshot.ts';
import { evidenceOf } from './domain/resume.ts';
import { trialUsedMs } from './domain/trial-time.ts';
import { runTrialHealth } from './health.ts';
import { healthHooks } from './hooks.ts';
import { type Done, failed, type InSlot, type PerformOptions, partsOf, readable, settleData } from './perform-parts.ts';
import type { SlotResult } from './slots/slots.ts';
import { checkEnvironment, hookEnvironment } from './surroundings.ts';

const SELECTOR_ATTEMPTS_MAX = 5;
const REVERT_RUNNING_MS_MAX = 15_000;

export const trialEffects = (options: PerformOptions) => {
  const { config, slots, files, now, log } = options;
  const { pause, hooks, keptManifest } = partsOf(options);

  const inspect = async (journey: InSlot): Done => {
    const inspected = await slots.inspect();
    if (!inspected.ok) return failed(inspected.code, inspected.message);
    return { kind: evidenceOf(inspected.view, journey) };
  };

  const activate = async (journey: InSlot, signal: AbortSignal): Done => {
    const manifest = await keptManifest(journey);
    const settled = await settleData(options);
    if (!settled.ok) return failed(settled.code, settled.message);
    // The device's fault, not the release's: nothing is stopped for it.
    const surroundings = await files.environment();
    if (!surroundings.ok) return failed('PRECONDITION', surroundings.message);
    const before = await hooks('before-activate', manifest, journey, signal);
    if (!before.ok) return failed('HOOK_FAILED', before.message);
    if (signal.aborted) return undefined;
    const kept = await keepData(manifest, journey);
    if (!kept.ok) return failed(kept.code, kept.message);
    const { deployment } = journey.offer.install;
    const activated = await slots.activate(journey.slot, { tries: config.trialTries, deployment });
    if (!activated.ok) return failed(activated.code, activated.message);
    return bootTrial(journey, signal);
  };

  /** The trial's own snapshot of the data, if it is to have one. From here to its boot no application runs. */
  const keepData = async (manifest: Manifest, journey: InSlot): Promise<SlotResult> => {
    const limit = slots.process === null ? null : snapshotLimit(manifest, config);
    if (limit === null) return { ok: true };
    const fits = await options.data.check(limit.bytesMax);
    if (!fits.ok) return fits;
    await slots.stop();
    const { deployment } = journey.offer.install;
    return options.data.take({ slot: journey.slot, deployment }, limit.bytesMax);
  };

  const bootTrial = async (journey: InSlot, signal: AbortSignal): Done => {
    const booted = await slots.boot(signal);
    if (booted.booted === journey.slot && booted.trial) return { kind: 'booted-trial', uptime: await options.uptime() };
    const why =
      booted.booted === null
        ? booted.why
        : `slot ${booted.booted} runs: the trial has no tries left, or its slot does not boot`;
    return { kind: 'booted-other', why: readable(why) };
  };

  const watchTrial = async (journey: InSlot, signal: AbortSignal): Done => {
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
      const result = await act();
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

  const commit = async (journey: InSlot, signal: AbortSignal): Done => {
    // A power cut between the verdict and its record in the boot selector may have booted the old slot: only what runs can be committed.
    const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
    const pending = inspected.ok && inspected.view.trial?.slot === journey.slot;
    if (pending && running !== null && running.slot !== journey.slot) {
      const booted = await bootTrial(journey, signal);
      if (signal.aborted) return undefined;
      if (booted?.kind === 'booted-other') return failed('TRIAL_CRASHED', booted.why);
    }
    const committed = await insist(() => slots.commit(), signal);
    if (signal.aborted) return undefined;
    if (!committed.ok) return failed(committed.code, committed.message);
    const settled = await settleData(options);
    if (!settled.ok) log.error({ event: 'snapshot-not-settled', code: settled.code }, settled.message);
    // After a restart nothing runs yet.
    if ((await slots.running()) === null) await slots.boot(signal);
    const manifest = await keptManifest(journey).catch(() => undefined);
    if (manifest !== undefined) await keepChecks(manifest, journey);
    const after =
      manifest === undefined ? { ok: true as const } : await hooks('after-commit', manifest, journey, signal);
    if (!after.ok) log.error({ event: 'hook-failed' }, `after commit, which stands: ${after.message}`);
    return { kind: 'committed' };
  };

  const revert = async (journey: InSlot, signal: AbortSignal): Done => {
    // Before anything else writes there.
    if (slots.process !== null) await options.keepLog(journey.offer.install, 'application');
    const reverted = await insist(() => slots.revert(), signal);
    if (signal.aborted) return undefined;
    if (!reverted.ok) {
      // No try of a trial can be counted either, so what boots is what ran before. A boot loader counts by itself, and is not asked.
      if (slots.process !== null) await slots.boot(signal);
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

  const verifyRevert = async (journey: InSlot, signal: AbortSignal): Done => {
    const deadline = performance.now() + REVERT_RUNNING_MS_MAX;
    for (;;) {
      const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
      if (!inspected.ok) return failed('REVERT_FAILED', inspected.message);
      const { active, trial } = inspected.view;
      if (trial !== null || active === journey.slot)
        return failed('REVERT_FAILED', 'the boot selector still names the new version');
      // Before the first commit there is nothing to go back to, and nothing runs.
      if (running === null ? active === null : running.slot === active) break;
      if (performance.now() >= deadline)
        return failed('REVERT_FAILED', `what ran before, slot ${active}, does not come up`);
      await sleep(50, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return undefined;
    }
    const manifest = await keptManifest(journey).catch(() => undefined);
    const after =
      manifest === undefined ? { ok: true as const } : await hooks('after-revert', manifest, journey, signal);
    if (!after.ok) log.error({ event: 'hook-failed' }, `after the revert, which stands: ${after.message}`);
    return { kind: 'revert-verified' };
  };

  return { inspect, activate, bootTrial, watchTrial, commit, revert, verifyRevert };
};
