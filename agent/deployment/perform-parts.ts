/** What performing every effect needs. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DeviceErrorCode, Running } from '#shared/deployment.ts';
import { readFileIfThere } from '#shared/durable.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { Uptime } from '#shared/machine-uptime.ts';
import { type HookMoment, Manifest } from '#shared/manifest.ts';
import type { LogPiece } from '#shared/messages.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import type { ApplicationFiles } from '../application/application-files.ts';
import type { DataSnapshots } from '../application/data-snapshot.ts';
import { hookEnvironment } from '../application/hook-environment.ts';
import type { Supervisor } from '../application/supervisor.ts';
import type { AgentConfig } from '../config/config.ts';
import { type Backoff, backoffMs } from '../domain/backoff.ts';
import type { Contact } from '../domain/contact.ts';
import type { HookRuns } from '../domain/hook-runs.ts';
import type { Journey } from '../domain/install-state.ts';
import type { Memory } from '../domain/memory.ts';
import type { SlotName, SlotResult, Slots } from '../domain/slots.ts';
import type { Log } from '../log.ts';
import type { FleetTime } from '../server/fleet-time.ts';
import type { Http } from '../server/http.ts';
import type { Identity } from '../server/identity.ts';
import type { Spread } from '../server/spread.ts';
import type { Progress } from '../transfer/last-transfer.ts';
import type { DeviceTrust } from '../trust/device-trust.ts';
import type { Inbox } from './desired.ts';
import type { Holds } from './holds.ts';
import { runHooks } from './hooks.ts';
import type { EventOf, Machine } from './machine.ts';

/** Where things are, under the data folder. */
/**
 * Keeps what this source wrote last, once for each attempt at a deployment. Never throws: a log that cannot be written
 * is not fatal.
 */
export type KeepLog = (
  about: { deployment: Id; attempt?: number | undefined } | null,
  source: LogPiece['source'],
) => Promise<void>;

export type Folders = { data: string; downloads: string };

export type PerformOptions = {
  config: Pick<
    AgentConfig,
    'compatible' | 'trialTries' | 'application' | 'unreachableMs' | 'health' | 'data' | 'keepArtifacts' | 'metered'
  >;
  folders: Folders;
  boot: Id;
  slots: Slots;
  supervisor: Supervisor;
  trust: Pick<DeviceTrust, 'checkManifest' | 'checkDesired' | 'time'>;
  http: Pick<Http, 'get' | 'getJson' | 'distrustCache'>;
  identity: Identity;
  machine: () => Pick<Machine, 'memory' | 'nextSeq' | 'send' | 'keep'>;
  inbox: () => Pick<Inbox, 'receive'>;
  /** How far the device gets now. */
  contact: () => Contact;
  /** Undoes what a trial does to the application's data. */
  data: DataSnapshots;
  /** What is the application's own on this device. */
  files: ApplicationFiles;
  /** What local programs say about an update. */
  holds: Pick<Holds, 'wait'>;
  /** Of the fetch that goes on. */
  onProgress: (progress: Progress) => void;
  /** A receipt waits to be sent. */
  onReceipt: () => void;
  /** For the server, after a failure. */
  keepLog: KeepLog;
  /** Keeps what a version is held to from its commit on. */
  keepChecks: (manifest: Manifest, manifestSha256: Sha256) => Promise<void>;
  now: () => number;
  /** For the deadline of a trial. */
  uptime: () => Promise<Uptime>;
  /** For windows and activation. */
  time: FleetTime;
  /** Over how long the fleet takes turns. */
  spread: Pick<Spread, 'ms'>;
  /** The same between attempts while the server is lost; 0 while it is there. */
  lostSpreadMs: () => number;
  log: Log;
  backoff: Backoff;
};

/** The next event; undefined when there is none, or when it was aborted. */
export type NextEvent = Promise<EventOf | undefined>;
export type InSlot = Journey & { slot: SlotName };

export const failed = (code: DeviceErrorCode, message: string): EventOf => ({
  kind: 'failed',
  error: { code, message: readable(message) },
});

/** Messages may quote what an application wrote; reports carry no control characters. */
export const readable = (message: string): string =>
  // oxlint-disable-next-line no-control-regex -- they are what is meant
  message.replace(/[\u0000-\u0008\u000B-\u001F\u007F]/g, ' ').slice(0, 1_000);

/** What runs now by what the slots say: the trial, or else the committed version. */
export const runningNow = async (slots: Slots): Promise<Running | null> => {
  const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
  if (!inspected.ok) return null;
  const slot = running?.slot ?? inspected.view.active;
  const content = slot === null ? undefined : inspected.view.slots[slot];
  return content?.state === 'bootable' ? content.running : null;
};

/**
 * Before anything boots or is activated: whatever a trial that is over has left of the data's snapshot goes where it
 * belongs.
 */
export const settleData = async ({ slots, data }: Pick<PerformOptions, 'slots' | 'data'>): Promise<SlotResult> => {
  const inspected = await slots.inspect();
  return inspected.ok ? data.settle(inspected.view) : inspected;
};

/** The manifest that was checked and kept when the deployment was accepted. */
export const manifestFile = (folders: Folders): string => join(folders.data, 'manifest.json');

export const partsOf = (options: PerformOptions) => {
  const { config, folders, now } = options;

  const pause = (attempt: number, signal: AbortSignal): Promise<unknown> =>
    sleep(backoffMs(attempt, options.backoff, Math.random()), undefined, { signal }).catch(() => undefined);

  /**
   * Before the network is tried again. By then it is known whether the server is lost, and with it everyone's download
   * at one moment.
   */
  const pauseFetch = async (attempt: number, signal: AbortSignal): Promise<void> => {
    await pause(attempt, signal);
    const spreadMs = attempt > 1 ? 0 : options.lostSpreadMs();
    if (spreadMs > 0) await sleep(Math.random() * spreadMs, undefined, { signal }).catch(() => undefined);
  };

  const hooks = async (when: HookMoment, manifest: Manifest, journey: Journey, signal: AbortSignal) => {
    if (!manifest.hooks.some((hook) => hook.when === when)) return { ok: true as const };
    const { memory, keep } = options.machine();
    const known = ({ hookRuns = [] }: Pick<Memory, 'hookRuns'>): HookRuns => hookRuns;
    const ran = await runHooks({
      when,
      manifest,
      folder: 'slot' in journey && when !== 'before-install' ? options.slots.workFolder(journey.slot) : folders.data,
      environment: await hookEnvironment(journey, options.slots, options.files),
      port: config.application.port,
      counts: {
        known: () => known(memory()),
        keep: (change) => keep((now) => ({ ...now, hookRuns: change(known(now)) }), signal),
      },
      // A hook may say "later" as long as nothing is decided.
      deferUntil: when === 'after-commit' || when === 'after-revert' ? 0 : journey.offer.expires,
      pause,
      now,
      signal,
    });
    return ran.ok ? ran : { ...ran, message: await options.files.withoutSecrets(ran.message) };
  };

  const keptManifest = async (journey: Journey): Promise<Manifest> => {
    const file = manifestFile(folders);
    const bytes = await readFileIfThere(file);
    if (bytes === undefined || sha256Hex(bytes) !== journey.offer.install.sha256) {
      throw new Error(`${file} is not the manifest that was checked`);
    }
    return Manifest.parse(JSON.parse(bytes.toString('utf8')));
  };

  return { pause, pauseFetch, hooks, keptManifest };
};
