/**
 * Performs the effects of the install state machine with the slots, the network, the trust store and the supervisor. Every effect
 * may be performed again after a crash. What comes out is the next event.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DeviceErrorCode, Receipt, Running } from '#shared/deployment.ts';
import { deviceRoutes } from '#shared/device-api.ts';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { Id, unreachable } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import type { AgentConfig } from './config.ts';
import { crashPoint } from './crash-point.ts';
import { type Inbox, leafOf, sameInstall } from './desired.ts';
import { type Effect, type InstallState, type Journey, outcomeOf } from './domain/install.ts';
import { evidenceOf, standbyOf } from './domain/resume.ts';
import { type Backoff, backoffMs } from './domain/retry.ts';
import { fetchAll } from './fetch-all.ts';
import { runTrialHealth } from './health.ts';
import { runHooks } from './hooks.ts';
import type { Http } from './http.ts';
import type { Identity } from './identity.ts';
import type { Log } from './log.ts';
import type { EventOf, Machine } from './machine.ts';
import { slotFolder } from './slots/directories.ts';
import type { SlotName, SlotResult, Slots } from './slots/slots.ts';
import type { Supervisor } from './supervisor.ts';
import type { DeviceTrust } from './trust/device-trust.ts';

/** Where things are, under the data folder. */
export type Folders = { data: string; slots: string; downloads: string };

export type PerformOptions = {
  config: Pick<AgentConfig, 'compatible' | 'trialTries' | 'application'>;
  folders: Folders;
  boot: Id;
  slots: Slots;
  supervisor: Supervisor;
  trust: Pick<DeviceTrust, 'checkManifest'>;
  http: Pick<Http, 'get' | 'getJson'>;
  identity: Identity;
  machine: () => Pick<Machine, 'memory' | 'nextSeq' | 'send'>;
  inbox: () => Pick<Inbox, 'receive'>;
  serverReachable(): boolean;
  /** Of the fetch that goes on. */
  onProgress(bytesDone: number, bytesTotal: number): void;
  /** A receipt waits to be sent. */
  onReceipt(): void;
  /** What the application last wrote, after a trial that failed. */
  onApplicationOutput(deployment: Id, text: string): void;
  now: () => number;
  log: Log;
  backoff: Backoff;
};

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

const MANIFEST_ATTEMPTS_MAX = 60;
const SELECTOR_ATTEMPTS_MAX = 5;
const INHIBITED_LOOK_MS = 1_000;
const REVERT_RUNNING_MS_MAX = 15_000;
const OUTPUT_BYTES_MAX = 12 * 1024;

type Done = Promise<EventOf | undefined>;

export const failureOf = (effect: Effect, error: unknown): EventOf | undefined => {
  // Whatever could not be deleted is deleted the next time.
  if (effect === 'clean-up') return { kind: 'cleaned' };
  const code = FAILURE_CODES[effect];
  return code === undefined ? undefined : failed(code, error instanceof Error ? error.message : String(error));
};

const failed = (code: DeviceErrorCode, message: string): EventOf => ({
  kind: 'failed',
  error: { code, message: readable(message) },
});

/** Messages may quote what an application wrote; reports carry no control characters. */
const readable = (message: string): string =>
  message.replace(/[\u0000-\u0008\u000B-\u001F\u007F]/g, ' ').slice(0, 1_000);

/** What runs now by the slots' word: the trial, or else the committed version. */
export const runningNow = async (slots: Slots): Promise<Running | null> => {
  const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
  if (!inspected.ok) return null;
  const slot = running?.slot ?? inspected.view.active;
  const content = slot === null ? undefined : inspected.view.slots[slot];
  return content?.state === 'bootable' ? content.running : null;
};

export const openPerformer = (options: PerformOptions) => {
  const perform = effectsOf(options);
  return async (effect: Effect, state: InstallState, signal: AbortSignal): Done => {
    if (effect === 'boot') {
      await perform.boot();
      return undefined;
    }
    // Every other effect belongs to a deployment.
    return state.state === 'idle' ? undefined : perform[effect](state, signal);
  };
};

const effectsOf = (options: PerformOptions) => {
  const { config, folders, slots, trust, now, log } = options;

  const pause = (attempt: number, signal: AbortSignal): Promise<unknown> =>
    sleep(backoffMs(attempt, options.backoff, Math.random()), undefined, { signal }).catch(() => undefined);
  const hooks = (when: Manifest['hooks'][number]['when'], manifest: Manifest, journey: Journey, signal: AbortSignal) =>
    runHooks({
      when,
      manifest,
      folder: 'slot' in journey && when !== 'before-install' ? slotFolder(folders.slots, journey.slot) : folders.data,
      deployment: journey.offer.install.deployment,
      port: config.application.port,
      // A hook may say "later" as long as nothing is decided.
      deferUntil: when.startsWith('before-') ? journey.offer.expires : 0,
      pause,
      now,
      signal,
    });

  const manifestFile = join(folders.data, 'manifest.json');
  /** What was checked and kept when the deployment was accepted. */
  const keptManifest = async (journey: Journey): Promise<Manifest> => {
    const bytes = await readFileIfThere(manifestFile);
    if (bytes === undefined || sha256Hex(bytes) !== journey.offer.install.sha256) {
      throw new Error(`${manifestFile} is not the manifest that was checked`);
    }
    return Manifest.parse(JSON.parse(bytes.toString('utf8')));
  };

  const checkManifest = async (journey: Journey, signal: AbortSignal): Done => {
    const inspected = await slots.inspect();
    if (!inspected.ok) return failed(inspected.code, inspected.message);
    for (let attempt = 0; ; attempt += 1) {
      const device = { compatible: config.compatible, floor: options.machine().memory().floor };
      const checked = await trust.checkManifest(journey.offer.install, device);
      if (signal.aborted) return undefined;
      if (checked.ok) {
        await writeFileDurably(manifestFile, checked.value.bytes);
        return { kind: 'manifest-checked', slot: standbyOf(inspected.view) };
      }
      const maybeLater = checked.code.endsWith('_UNAVAILABLE') || checked.code === 'FETCH_FAILED';
      if (!maybeLater || attempt >= MANIFEST_ATTEMPTS_MAX) {
        return failed(checked.code, checked.message);
      }
      await pause(attempt, signal);
    }
  };

  /** A local program holds installs back as long as a file named `inhibit` is in the data folder. */
  const awaitPermission = async (journey: Journey, signal: AbortSignal): Done => {
    const inhibitor = join(folders.data, 'inhibit');
    for (let told = false; (await readFileIfThere(inhibitor)) !== undefined; told = true) {
      if (!told) log.info({ event: 'inhibited' }, `waiting as long as ${inhibitor} exists`);
      if (now() >= journey.offer.expires)
        return failed('INSTRUCTION_EXPIRED', 'the offer expired while a local program inhibited it');
      await sleep(INHIBITED_LOOK_MS, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return undefined;
    }
    return { kind: 'permitted' };
  };

  const fetch = async (journey: Journey & { slot: SlotName }, signal: AbortSignal): Done => {
    const manifest = await keptManifest(journey);
    const prepared = await slots.prepare(journey.slot);
    if (!prepared.ok) return failed(prepared.code, prepared.message);
    const fetched = await fetchAll({
      get: options.http.get,
      artifacts: manifest.artifacts,
      dir: folders.downloads,
      signal,
      pause,
      onProgress: options.onProgress,
      log,
    });
    if (signal.aborted) return undefined;
    if (fetched.ok) return { kind: 'fetched' };
    // What fills the disk must not keep the journal from saying so.
    if (fetched.code === 'NO_SPACE') await rm(folders.downloads, { recursive: true, force: true });
    return failed(fetched.code, fetched.message);
  };

  const install = async (journey: Journey & { slot: SlotName }, signal: AbortSignal): Done => {
    const manifest = await keptManifest(journey);
    const before = await hooks('before-install', manifest, journey, signal);
    if (!before.ok) return failed('HOOK_FAILED', before.message);
    const files = manifest.artifacts.map(({ name, sha256 }) => ({ name, file: join(folders.downloads, sha256) }));
    const written = await slots.write(journey.slot, manifest, journey.offer.install.sha256, files);
    if (!written.ok) return failed(written.code, written.message);
    if (signal.aborted) return undefined;
    const verified = await slots.verify(journey.slot);
    if (!verified.ok) return failed(verified.code, verified.message);
    const after = await hooks('after-install', manifest, journey, signal);
    return after.ok ? { kind: 'installed' } : failed('HOOK_FAILED', after.message);
  };

  const recheck = async (journey: Journey & { slot: SlotName }): Done => {
    const verified = await slots.verify(journey.slot);
    return verified.ok ? { kind: 'installed' } : failed(verified.code, verified.message);
  };

  /** Right before activation: does the offer still stand? Unasked nothing is activated; without an answer the offer expires. */
  const confirmOffer = async (_journey: Journey, signal: AbortSignal): Done => {
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      const current = options.machine().memory().install;
      if (current.state !== 'ready') return undefined;
      if (now() >= current.offer.expires)
        return failed('INSTRUCTION_EXPIRED', 'the offer expired before the server could confirm it');
      const { path, answer } = deviceRoutes.desired;
      const asked = await options.http.getJson(path, answer, signal);
      if (signal.aborted) return undefined;
      if (asked.ok) {
        if (asked.value.desired === null) return { kind: 'withdrawn', seq: current.offer.seq };
        const leaf = leafOf(asked.value.desired);
        if (leaf?.seq === current.offer.seq && sameInstall(current.offer, leaf.instruction))
          return { kind: 'confirmed' };
        // Something newer: it is verified like any other, and then withdraws, renews or supersedes.
        options.inbox().receive(asked.value.desired);
      } else
        log.info(
          { event: 'confirmation-retried', code: asked.code },
          `the server can not be asked whether the offer stands: ${asked.message}`,
        );
      await pause(attempt, signal);
    }
    return undefined;
  };

  const activate = async (journey: Journey & { slot: SlotName }, signal: AbortSignal): Done => {
    const before = await hooks('before-activate', await keptManifest(journey), journey, signal);
    if (!before.ok) return failed('HOOK_FAILED', before.message);
    const { deployment } = journey.offer.install;
    const activated = await slots.activate(journey.slot, { tries: config.trialTries, deployment });
    if (!activated.ok) return failed(activated.code, activated.message);
    return bootTrial(journey);
  };

  const bootTrial = async (journey: Journey & { slot: SlotName }): Done => {
    const booted = await slots.boot();
    if (booted.booted === journey.slot && booted.trial) return { kind: 'booted-trial' };
    const why =
      booted.booted === null
        ? booted.why
        : `slot ${booted.booted} runs: the trial has no tries left, or its slot does not boot`;
    return { kind: 'booted-other', why: readable(why) };
  };

  const watchTrial = async (journey: Journey & { slot: SlotName }, signal: AbortSignal): Done => {
    const manifest = await keptManifest(journey);
    const verdict = await runTrialHealth({
      policy: manifest.health,
      elapsedMs: Math.max(0, now() - journey.since),
      ...(config.application.port === undefined ? {} : { port: config.application.port }),
      folder: slotFolder(folders.slots, journey.slot),
      ...(manifest.run === undefined ? {} : { environment: manifest.run.environment }),
      process: manifest.run === undefined ? null : options.supervisor,
      serverReachable: options.serverReachable,
      signal,
      onWaiting: (sentence) => log.debug({ event: 'trial-waits' }, `on trial: ${sentence}`),
    });
    if (verdict.verdict === 'aborted') return undefined;
    return verdict.verdict === 'healthy' ? { kind: 'passed' } : failed(verdict.code, verdict.message);
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

  const commit = async (journey: Journey & { slot: SlotName }, signal: AbortSignal): Done => {
    const committed = await insist(() => slots.commit(), signal);
    if (signal.aborted) return undefined;
    if (!committed.ok) return failed(committed.code, committed.message);
    // After a restart nothing runs yet.
    if ((await slots.running()) === null) await slots.boot();
    const manifest = await keptManifest(journey).catch(() => undefined);
    const after =
      manifest === undefined ? { ok: true as const } : await hooks('after-commit', manifest, journey, signal);
    if (!after.ok) log.error({ event: 'hook-failed' }, `after commit, which stands: ${after.message}`);
    return { kind: 'committed' };
  };

  const revert = async (journey: Journey & { slot: SlotName }, signal: AbortSignal): Done => {
    const output = await options.supervisor.lastOutput(OUTPUT_BYTES_MAX).catch(() => '');
    if (output !== '') options.onApplicationOutput(journey.offer.install.deployment, output);
    const reverted = await insist(() => slots.revert(), signal);
    if (signal.aborted) return undefined;
    if (!reverted.ok) return failed('REVERT_FAILED', `${reverted.code}: ${reverted.message}`);
    // Where activation failed before it changed anything, what ran goes on running.
    const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
    const untouched = inspected.ok && running !== null && !running.trial && running.slot === inspected.view.active;
    if (untouched && running.slot !== journey.slot) return { kind: 'booted-other', why: '' };
    const booted = await slots.boot();
    if (booted.booted === journey.slot)
      return failed('REVERT_FAILED', `slot ${journey.slot} still runs after the revert`);
    return { kind: 'booted-other', why: '' };
  };

  const verifyRevert = async (journey: Journey & { slot: SlotName }, signal: AbortSignal): Done => {
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

  const signReceipt = async (journey: Journey): Done => {
    const { install: instruction } = journey.offer;
    const outcome = outcomeOf(journey);
    if (outcome === undefined) throw new Error(`${journey.state} has no outcome`);
    const receipt: Receipt = {
      type: 'sluice/receipt/1',
      device: options.identity.device,
      deployment: instruction.deployment,
      rollout: instruction.rollout,
      product: instruction.product,
      version: instruction.version,
      manifest: instruction.sha256,
      outcome,
      ...('error' in journey ? { error: journey.error } : {}),
      running: await runningNow(slots),
      boot: options.boot,
      seq: await options.machine().nextSeq(),
      at: Math.max(0, now()),
    };
    return { kind: 'signed', receipt: options.identity.sign(receipt) };
  };

  const boot = async (): Promise<void> => {
    const booted = await slots.boot();
    if (booted.booted === null) log.info({ event: 'nothing-boots' }, `no application runs: ${booted.why}`);
  };
  const inspect = async (journey: Journey & { slot: SlotName }): Done => {
    const inspected = await slots.inspect();
    if (!inspected.ok) return failed(inspected.code, inspected.message);
    return { kind: evidenceOf(inspected.view, journey) };
  };
  const sendReceipt = async (): Done => {
    options.onReceipt();
    return undefined;
  };
  const cleanUp = async (): Done => {
    await rm(folders.downloads, { recursive: true, force: true });
    await rm(manifestFile, { force: true });
    crashPoint('perform.cleaned');
    return { kind: 'cleaned' };
  };

  return {
    boot,
    'check-manifest': checkManifest,
    'await-permission': awaitPermission,
    fetch: inSlot(fetch),
    install: inSlot(install),
    recheck: inSlot(recheck),
    'confirm-offer': confirmOffer,
    inspect: inSlot(inspect),
    activate: inSlot(activate),
    'boot-trial': inSlot(bootTrial),
    'watch-trial': inSlot(watchTrial),
    commit: inSlot(commit),
    revert: inSlot(revert),
    'verify-revert': inSlot(verifyRevert),
    'sign-receipt': signReceipt,
    'send-receipt': sendReceipt,
    'clean-up': cleanUp,
  };
};

/** These effects come only in states that know their slot. */
const inSlot =
  (act: (journey: Journey & { slot: SlotName }, signal: AbortSignal) => Done) =>
  (journey: Journey, signal: AbortSignal): Done =>
    'slot' in journey ? act(journey, signal) : Promise.reject(new Error(`${journey.state} has no slot`));
