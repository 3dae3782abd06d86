/** Performs what comes before activation: nothing here changes what boots. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { deviceRoutes } from '#shared/device-api.ts';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { mayActivateAt, mayInstallAt, type Timing } from '#shared/windows.ts';
import { leafOf, sameInstall } from './desired.ts';
import type { Journey } from './domain/install.ts';
import { standbyOf } from './domain/resume.ts';
import { fetchAll } from './fetch-all.ts';
import { type Done, failed, type InSlot, manifestFile, type PerformOptions, partsOf } from './perform-parts.ts';

const MANIFEST_ATTEMPTS_MAX = 60;
const INHIBITED_LOOK_MS = 1_000;
/** The clock may be set, and the instruction renewed, while the device waits. */
const HELD_LOOK_MS = 1_000;
const CONFIRMED_WITHIN_MS = 86_400_000;

const waitWords = (at: number | undefined): string =>
  at === undefined ? 'waiting until told to go on' : `waiting until ${new Date(at).toISOString()}, as told`;

export const installEffects = (options: PerformOptions) => {
  const { config, folders, slots, trust, now, log } = options;
  const { pause, hooks, keptManifest } = partsOf(options);

  const checkManifest = async (journey: Journey, signal: AbortSignal): Done => {
    const inspected = await slots.inspect();
    if (!inspected.ok) return failed(inspected.code, inspected.message);
    for (let attempt = 0; ; attempt += 1) {
      const device = { compatible: config.compatible, floor: options.machine().memory().floor };
      const checked = await trust.checkManifest(journey.offer.install, device);
      if (signal.aborted) return undefined;
      if (checked.ok) {
        await writeFileDurably(manifestFile(folders), checked.value.bytes);
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
    const waited = await untilTime(mayInstallAt, 'waiting', signal);
    if (waited === undefined) return undefined;
    for (let told = false; (await readFileIfThere(inhibitor)) !== undefined; told = true) {
      if (!told) log.info({ event: 'inhibited' }, `waiting as long as ${inhibitor} exists`);
      if (now() >= Math.max(journey.offer.expires, waited))
        return failed('INSTRUCTION_EXPIRED', 'the offer expired while a local program inhibited it');
      await sleep(INHIBITED_LOOK_MS, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return undefined;
    }
    return { kind: 'permitted' };
  };

  /**
   * Waits until the newest instruction lets the device go on, which it knows offline too. An offer may expire meanwhile: returns
   * until when it may still be confirmed then. Undefined when it was aborted, or has nothing to wait for any more.
   */
  const untilTime = async (
    allowedAt: (timing: Timing, now: number) => number | undefined,
    state: 'waiting' | 'ready',
    signal: AbortSignal,
  ): Promise<number | undefined> => {
    for (let told = false; !signal.aborted; told = true) {
      const { install } = options.machine().memory();
      if (install.state !== state) return undefined;
      const at = allowedAt(install.offer.install, now());
      if (at !== undefined && at <= now()) return told ? now() + CONFIRMED_WITHIN_MS : 0;
      if (!told) log.info({ event: 'held-back', until: at ?? null }, `${state}: ${waitWords(at)}`);
      const waitMs = Math.min(HELD_LOOK_MS, (at ?? Number.POSITIVE_INFINITY) - now());
      await sleep(waitMs, undefined, { signal }).catch(() => undefined);
    }
    return undefined;
  };

  const fetch = async (journey: InSlot, signal: AbortSignal): Done => {
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

  const install = async (journey: InSlot, signal: AbortSignal): Done => {
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

  const recheck = async (journey: InSlot): Done => {
    const verified = await slots.verify(journey.slot);
    return verified.ok ? { kind: 'installed' } : failed(verified.code, verified.message);
  };

  /** Right before activation: does the offer still stand? Unasked nothing is activated; without an answer the offer expires. */
  const confirmOffer = async (_journey: Journey, signal: AbortSignal): Done => {
    let confirmBy = 0;
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      const waited = await untilTime(mayActivateAt, 'ready', signal);
      const current = options.machine().memory().install;
      if (waited === undefined || current.state !== 'ready') return undefined;
      confirmBy = Math.max(confirmBy, waited);
      if (now() >= Math.max(current.offer.expires, confirmBy))
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

  return { checkManifest, awaitPermission, fetch, install, recheck, confirmOffer };
};
