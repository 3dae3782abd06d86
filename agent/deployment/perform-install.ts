/** Performs what comes before activation: nothing here changes what boots. */
import { rm } from 'node:fs/promises';
import { writeFileDurably } from '#shared/durable.ts';
import { mayInstallAt } from '#shared/windows.ts';
import type { Journey } from '../domain/install-state.ts';
import { momentOf, passedMs } from '../domain/moment.ts';
import { standbyOf } from '../domain/restart-evidence.ts';
import type { SlotResult } from '../domain/slots.ts';
import type { Transfer } from '../transfer/transfer.ts';
import { confirming } from './confirm-offer.ts';
import { isInstalled, isRunning } from './found-installed.ts';
import { failed, type InSlot, manifestFile, type NextEvent, type PerformOptions, partsOf } from './perform-parts.ts';

const MANIFEST_ATTEMPTS_MAX = 60;

export const installEffects = (options: PerformOptions, transfer: Transfer) => {
  const { config, folders, slots, trust } = options;
  const { pauseFetch, hooks, keptManifest } = partsOf(options);
  const { untilTime, confirmOffer } = confirming(options);

  const checkManifest = async (journey: Journey, signal: AbortSignal): NextEvent => {
    const inspected = await slots.inspect();
    if (!inspected.ok) return failed(inspected.code, inspected.message);
    for (let attempt = 0; ; attempt += 1) {
      const device = { compatible: config.compatible, floor: options.machine().memory().floor };
      const checked = await trust.checkManifest(journey.offer.install, device);
      if (signal.aborted) return undefined;
      if (checked.ok) {
        if (await isRunning(options, journey)) return { kind: 'found-running' };
        await writeFileDurably(manifestFile(folders), checked.value.bytes);
        return { kind: 'manifest-checked', slot: standbyOf(inspected.view) };
      }
      const maybeLater = checked.code.endsWith('_UNAVAILABLE') || checked.code === 'FETCH_FAILED';
      if (!maybeLater || attempt >= MANIFEST_ATTEMPTS_MAX) {
        return failed(checked.code, checked.message);
      }
      await pauseFetch(attempt, signal);
    }
  };

  /** The maintenance window, and what holds it back on this device. */
  const awaitPermission = async (journey: Journey, signal: AbortSignal): NextEvent => {
    const waited = await untilTime(mayInstallAt, 'waiting', signal);
    if (waited === undefined) return undefined;
    const { install, expires } = journey.offer;
    const isGood = (): boolean => options.now() < expires || performance.now() < waited;
    const held = await options.holds.wait('install', install.deployment, isGood, signal);
    if (held === 'expired')
      return failed('INSTRUCTION_EXPIRED', 'the offer expired while a local program inhibited it');
    return held === 'go'
      ? { kind: 'permitted', time: options.time.now() ?? 0, uptime: await options.uptime() }
      : undefined;
  };

  /** Of the fetch, also before a restart. */
  const elapsedMs = async (journey: InSlot): Promise<number> => {
    const began = 'began' in journey ? journey.began : undefined;
    const then = { ...momentOf(journey.since), ...began };
    return Math.max(0, passedMs(then, { ...(await options.uptime()), wall: options.now() }));
  };

  /**
   * What fills the disk, or lies on one that fails, must not keep the journal from saying so: it is fetched again if it
   * is wanted again.
   */
  const spoilt = async ({ code, message }: Extract<SlotResult, { ok: false }>): NextEvent => {
    if (code === 'NO_SPACE' || code === 'WRITE_FAILED')
      await rm(folders.downloads, { recursive: true, force: true }).catch(() => undefined);
    return failed(code, message);
  };

  const fetch = async (journey: InSlot, signal: AbortSignal): NextEvent => {
    const manifest = await keptManifest(journey);
    if (await isInstalled(options, journey, signal)) return { kind: 'found-installed' };
    if (signal.aborted) return undefined;
    const prepared = await slots.prepare(journey.slot, manifest);
    if (!prepared.ok) return failed(prepared.code, prepared.message);
    const { slot, offer } = journey;
    const fetched = await transfer.fetch(
      { slot, manifest, elapsedMs: await elapsedMs(journey), expires: offer.expires },
      signal,
    );
    if (signal.aborted) return undefined;
    return fetched.ok ? { kind: 'fetched' } : spoilt(fetched);
  };

  const install = async (journey: InSlot, signal: AbortSignal): NextEvent => {
    const manifest = await keptManifest(journey);
    const before = await hooks('before-install', manifest, journey, signal);
    if (!before.ok) return failed('HOOK_FAILED', before.message);
    const files = await transfer.fetched({ slot: journey.slot, manifest });
    const written = await slots.write(journey.slot, manifest, journey.offer.install.sha256, files, signal);
    if (signal.aborted) return undefined;
    if (!written.ok) return spoilt(written);
    const verified = await slots.verify(journey.slot, signal);
    if (signal.aborted) return undefined;
    if (!verified.ok) return failed(verified.code, verified.message);
    const after = await hooks('after-install', manifest, journey, signal);
    return after.ok ? { kind: 'installed' } : failed('HOOK_FAILED', after.message);
  };

  const recheck = async (journey: InSlot, signal: AbortSignal): NextEvent => {
    const verified = await slots.verify(journey.slot, signal);
    if (signal.aborted) return undefined;
    return verified.ok ? { kind: 'installed' } : failed(verified.code, verified.message);
  };

  return { checkManifest, awaitPermission, fetch, install, recheck, confirmOffer };
};
