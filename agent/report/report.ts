/**
 * What the device says of itself: state reports, repeated until the server acknowledges them by number, and heartbeats,
 * which may be lost. A receipt travels in every report until one that carried it is acknowledged; only then does the
 * deployment end here.
 */
import type { Running } from '#shared/deployment.ts';
import type { Id } from '#shared/ids.ts';
import type { Ack, Heartbeat, Signed, StateReport } from '#shared/messages.ts';
import type { Machine } from '../deployment/machine.ts';
import { backoffMs, jitteredMs } from '../domain/backoff.ts';
import { attemptOf } from '../domain/install.ts';
import type { InstallState } from '../domain/install-state.ts';
import type { Log } from '../log.ts';
import type { Link } from '../server/link.ts';
import type { Progress } from '../transfer/last-transfer.ts';

export type ReporterOptions = {
  machine: Pick<Machine, 'memory' | 'nextSeq' | 'skipSeq' | 'send'>;
  link: () => Pick<Link, 'publish' | 'connected'>;
  boot: Id;
  /** Name and version of the agent. */
  agent: string;
  running(): Promise<Running | null>;
  /** Whether what should run does run. */
  healthy(): Promise<boolean>;
  attributes(): Record<string, string>;
  progress(): Progress | null;
  now: () => number;
  heartbeatMs: number;
  log: Log;
};

export type Reporter = {
  /** Something that is reported has changed. */
  changed(): void;
  connected(): void;
  disconnected(): void;
  ack: (ack: Ack) => void;
  stop(): void;
};

/** Changes closer together than this travel together. */
const GAP_MS = 100;
const REPEAT = { firstMs: 5_000, maxMs: 60_000 };
const SENT_MAX = 64;

export const openReporter = (options: ReporterOptions): Reporter => {
  const { machine, link, log } = options;
  const startedAt = performance.now();
  /** Reports without acknowledgement that carried a receipt: which. Each attempt at a deployment has its own. */
  const sentReceipts = new Map<number, Signed>();
  let newestSent = 0;
  /** Numbers up to this one were used by what this device was before it was put back to an older state. */
  let forgotten = 0;
  let repeats = 0;
  /** Counts what happened; a report that took a while must not hide what changed meanwhile. */
  let changes = 0;
  let changesSent = 0;
  let reporting: NodeJS.Timeout | undefined;
  let beating: NodeJS.Timeout | undefined;
  let stopped = false;

  const schedule = (ms: number): void => {
    clearTimeout(reporting);
    if (!stopped && link().connected()) reporting = setTimeout(() => void report(), ms);
  };

  const report = async (): Promise<void> => {
    const changesBefore = changes;
    try {
      const { install, desiredSeq, floor } = machine.memory();
      const receipt = receiptOf(install);
      const message: StateReport = {
        v: 1,
        boot: options.boot,
        seq: await machine.nextSeq('report'),
        at: Math.max(0, options.now()),
        agent: options.agent,
        running: await options.running(),
        floor,
        desiredSeq,
        deployment: deploymentOf(install, options.progress()),
        receipts: receipt === null ? [] : [receipt],
        attributes: options.attributes(),
      };
      if (stopped || !link().publish('state', message)) return;
      newestSent = Math.max(newestSent, message.seq);
      changesSent = changesBefore;
      if (receipt !== null) sentReceipts.set(message.seq, receipt);
      for (const old of [...sentReceipts.keys()].slice(0, -SENT_MAX)) sentReceipts.delete(old);
      const waitMs = REPEAT.firstMs / 2 + backoffMs(repeats, REPEAT, Math.random());
      repeats += 1;
      schedule(changes === changesBefore ? waitMs : GAP_MS);
    } catch (error) {
      if (stopped) return;
      log.error({ event: 'report-failed', err: error }, 'a report could not be made');
      schedule(REPEAT.maxMs);
    }
  };

  const beat = async (): Promise<void> => {
    const { install, desiredSeq } = machine.memory();
    const deployment = deploymentOf(install, null);
    const heartbeat: Heartbeat = {
      v: 1,
      boot: options.boot,
      at: Math.max(0, options.now()),
      uptimeMs: Math.round(performance.now() - startedAt),
      running: await options.running(),
      desiredSeq,
      deployment: deployment === null ? null : { id: deployment.id, state: deployment.state },
      healthy: await options.healthy(),
    };
    if (!stopped) link().publish('heartbeat', heartbeat);
  };
  const scheduleBeat = (ms: number): void => {
    clearTimeout(beating);
    if (stopped) return;
    beating = setTimeout(() => {
      void beat().catch((error: unknown) => log.error({ event: 'heartbeat-failed', err: error }, 'no heartbeat'));
      scheduleBeat(jitteredMs(options.heartbeatMs, Math.random()));
    }, ms);
  };

  return {
    changed: () => {
      repeats = 0;
      changes += 1;
      schedule(GAP_MS);
    },
    connected: () => {
      repeats = 0;
      schedule(0);
      // The first beat comes soon but not with everyone else's, after a mass reconnect.
      scheduleBeat(Math.random() * Math.min(options.heartbeatMs, 5_000));
    },
    disconnected: () => {
      clearTimeout(reporting);
      clearTimeout(beating);
    },
    ack: ({ boot, seq, highest = 0 }) => {
      if (boot !== options.boot) return;
      if (highest > newestSent) {
        const why = `the server has heard report ${highest} of this device, which knows of none: going on above it`;
        log.warn({ event: 'numbers-forgotten' }, why);
        forgotten = highest;
        machine.skipSeq(highest);
      }
      // Taken for what was heard before: what it carried will be repeated.
      if (seq <= forgotten) return;
      const delivered = sentReceipts.get(seq);
      sentReceipts.delete(seq);
      // Acknowledgements come late: by now the receipt of the next attempt may wait, which no one has heard of.
      if (delivered !== undefined && delivered.payload === receiptOf(machine.memory().install)?.payload)
        machine.send({ kind: 'acknowledged' });
      if (seq === newestSent && changes === changesSent) clearTimeout(reporting);
    },
    stop: () => {
      stopped = true;
      clearTimeout(reporting);
      clearTimeout(beating);
    },
  };
};

const receiptOf = (install: InstallState): Signed | null => ('receipt' in install ? install.receipt : null);

/** What has been reported and acknowledged is no news any more. */
const deploymentOf = (install: InstallState, progress: Progress | null): StateReport['deployment'] => {
  if (install.state === 'idle' || install.state === 'reported') return null;
  return {
    id: install.offer.install.deployment,
    ...attemptOf(install),
    state: install.state,
    since: install.since,
    ...progress,
    ...('error' in install ? { error: install.error } : {}),
  };
};
