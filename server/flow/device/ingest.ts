/**
 * Where messages of devices meet the store. Heartbeats are coalesced to the newest of each device, reports wait in
 * bounded queues, and both are written in batches; nothing that a device sends can make a queue grow without end.
 */
import type { Logger } from 'pino';
import type { z } from 'zod';
import type { HeartbeatRow } from '#server/store/ingest.ts';
import type { Store } from '#server/store/store.ts';
import { inBatches } from '#shared/batches.ts';
import type { Id } from '#shared/ids.ts';
import { Heartbeat, LogPiece, Online, parseMessage, StateReport } from '#shared/messages.ts';
import { perKey } from '#shared/token-bucket.ts';
import type { UpChannel } from '#shared/topics.ts';
import type { DeviceLink } from './device-link.ts';
import type { MessageKind, Observer } from './observer.ts';
import { type ReceiveDeps, type Report, receiveReports, trialOf } from './receive-report.ts';

const BATCH_MS = 100;
const BATCH_ROWS_MAX = 500;
/** Of one device; a report that finds no room is repeated by its device. */
const REPORTS_PER_DEVICE_MAX = 4;
const REPORTS_MAX = 20_000;
const HEARTBEATS_MAX = 100_000;
const PRESENCE_MAX = 100_000;
/** Complaints about one device, in the log and in the audit log: a few, then one a minute. */
const COMPLAINTS = { burst: 3, perSecond: 1 / 60 };
/** Devices whose complaints are counted at once. */
const DEVICES_MAX = 10_000;

type Presence = { device: Id; online: boolean; boot: Id | null; at: number };

export type IngestDeps = Omit<ReceiveDeps, 'mayTell'> & {
  store: ReceiveDeps['store'] & Pick<Store, 'saveHeartbeats' | 'setOnline'>;
  link: Pick<DeviceLink, 'acknowledge'>;
  observer: Observer;
  log: Pick<Logger, 'info' | 'warn' | 'error'>;
  /** Keeps a piece of the device's log, and acknowledges it. Never throws. */
  keepLog: (device: Id, piece: LogPiece) => void;
  /** A device spoke in this life, over the connection that it has now. */
  heard?: (device: Id, boot: Id) => void;
  /** Tells a rollout that deployments of it moved. */
  wake: (rollout: Id) => void;
};

export type Ingest = {
  /** Takes one message; never throws, never waits. Not `live`: its connection is over. */
  message(device: Id, channel: UpChannel, payload: Uint8Array, live?: boolean): void;
  presence(device: Id, online: boolean): void;
  /** Drops what this device said and no one has read yet, and resolves when nothing of it is being written any more. */
  forget(device: Id): Promise<void>;
  /** Resolves when everything taken so far is written. */
  flush(): Promise<void>;
  /** Writes what is there, and takes nothing more. */
  stop(): Promise<void>;
};

export const makeIngest = (deps: IngestDeps): Ingest => {
  const [mayComplain, mayTell] = [perKey(COMPLAINTS, DEVICES_MAX), perKey(COMPLAINTS, DEVICES_MAX)];
  const complain = (device: Id, event: string, text: string): void => {
    if (mayComplain(device, deps.now())) deps.log.warn({ event, deviceId: device }, text);
  };
  const lanes = makeLanes({ ...deps, complain, mayTell: (device) => mayTell(device, deps.now()) });
  let stopped = false;

  const parse = <S extends z.ZodType>(schema: S, device: Id, channel: MessageKind, payload: Uint8Array) => {
    const parsed = parseMessage(schema, payload);
    deps.observer.message(channel, parsed === undefined ? 'malformed' : 'taken');
    if (parsed === undefined) complain(device, 'message-malformed', `a ${channel} message is not of the agreed form`);
    return parsed;
  };

  return {
    message(device, channel, payload, live = true) {
      if (stopped) return;
      const heard = (boot: Id): void => {
        if (live) deps.heard?.(device, boot);
      };
      switch (channel) {
        // Not ingested but answered: server/mqtt/blocks.ts.
        case 'block':
          return;
        case 'heartbeat': {
          const heartbeat = parse(Heartbeat, device, channel, payload);
          if (heartbeat === undefined) return;
          heard(heartbeat.boot);
          lanes.heartbeat(device, heartbeat);
          return;
        }
        case 'state': {
          const report = parse(StateReport, device, channel, payload);
          if (report === undefined) return;
          heard(report.boot);
          if (lanes.report(device, report)) return;
          deps.observer.message(channel, 'dropped');
          complain(device, 'report-dropped', 'more state reports than can be stored; the device will repeat them');
          return;
        }
        case 'online': {
          const online = parse(Online, device, channel, payload);
          // Whether a device is connected is known from its connection; this says only which boot speaks.
          if (online?.online !== true) return;
          heard(online.boot);
          lanes.presence({ device, online: true, boot: online.boot, at: deps.now() });
          return;
        }
        case 'log': {
          const piece = parse(LogPiece, device, channel, payload);
          if (piece !== undefined) deps.keepLog(device, piece);
          return;
        }
      }
    },
    presence(device, online) {
      if (!stopped) lanes.presence({ device, online, boot: null, at: deps.now() });
    },
    forget: (device) => lanes.forget(device),
    flush: () => lanes.flush(),
    async stop() {
      stopped = true;
      await lanes.flush();
    },
  };
};

type LaneDeps = IngestDeps &
  Pick<ReceiveDeps, 'mayTell'> & { complain: (device: Id, event: string, text: string) => void };

/** The queues, and the one writer that empties them. */
const makeLanes = (deps: LaneDeps) => {
  const heartbeats = new Map<Id, HeartbeatRow>();
  const reports = new Map<Id, StateReport[]>();
  const presences = new Map<Id, Presence>();
  let reportCount = 0;
  let firstAt: { heartbeat: number; state: number } = { heartbeat: 0, state: 0 };
  let timer: NodeJS.Timeout | undefined;
  let writing: Promise<void> | undefined;

  const isEmpty = (): boolean => heartbeats.size === 0 && reports.size === 0 && presences.size === 0;
  const write = async (): Promise<void> => {
    clearTimeout(timer);
    timer = undefined;
    const taken = { ...firstAt };
    await attempt('presence', () => writePresence(deps, drain(presences)));
    const rows = drain(heartbeats);
    await attempt('heartbeat', () => writeHeartbeats(deps, rows, taken.heartbeat));
    const batch: Report[] = [];
    for (const [device, queue] of reports) {
      if (batch.length >= BATCH_ROWS_MAX) break;
      const report = queue.shift();
      if (report !== undefined) batch.push({ device, report });
      if (queue.length === 0) reports.delete(device);
    }
    reportCount -= batch.length;
    await attempt('state', () => writeReports(deps, batch, taken.state));
  };
  /** The store failed: said loudly, and survived. Devices say again what matters. */
  const attempt = async (kind: 'presence' | 'heartbeat' | 'state', work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      if (kind !== 'presence') deps.observer.message(kind, 'lost');
      deps.log.error({ event: 'ingest-failed', kind, err: error }, 'what devices reported could not be stored');
    }
  };
  const start = (): Promise<void> =>
    (writing ??= write().finally(() => {
      writing = undefined;
      if (!isEmpty()) schedule(reports.size > 0);
    }));
  const schedule = (soon: boolean): void => {
    if (writing !== undefined) return;
    if (soon && timer !== undefined) {
      clearTimeout(timer);
      timer = undefined;
    }
    timer ??= setTimeout(() => void start(), soon ? 0 : BATCH_MS);
  };
  const isFull = (): boolean => heartbeats.size >= BATCH_ROWS_MAX || reportCount >= BATCH_ROWS_MAX;

  return {
    heartbeat(device: Id, heartbeat: Heartbeat): void {
      const { boot, running, healthy } = heartbeat;
      if (heartbeats.size >= HEARTBEATS_MAX && !heartbeats.has(device)) return;
      if (heartbeats.size === 0) firstAt.heartbeat = performance.now();
      heartbeats.set(device, { device, boot, at: deps.now(), running, healthy, ...trialOf(heartbeat) });
      schedule(isFull());
    },
    report(device: Id, report: StateReport): boolean {
      const queue = reports.get(device) ?? [];
      if (queue.length >= REPORTS_PER_DEVICE_MAX || reportCount >= REPORTS_MAX) return false;
      if (reportCount === 0) firstAt.state = performance.now();
      queue.push(report);
      reports.set(device, queue);
      reportCount += 1;
      schedule(isFull());
      return true;
    },
    presence(change: Presence): void {
      if (presences.size >= PRESENCE_MAX && !presences.has(change.device)) return;
      const before = presences.get(change.device);
      presences.set(change.device, { ...change, boot: change.boot ?? before?.boot ?? null });
      schedule(false);
    },
    async forget(device: Id): Promise<void> {
      heartbeats.delete(device);
      reportCount -= reports.get(device)?.length ?? 0;
      reports.delete(device);
      await writing;
    },
    async flush(): Promise<void> {
      await start();
      // What came during that write, and the reports of devices that had several.
      while (!isEmpty()) await start();
      clearTimeout(timer);
      timer = undefined;
    },
  };
};

const drain = <T>(queue: Map<Id, T>): T[] => {
  const all = [...queue.values()];
  queue.clear();
  return all;
};

const writePresence = async (deps: IngestDeps, changes: Presence[]): Promise<void> => {
  for (const batch of inBatches(changes, BATCH_ROWS_MAX)) await deps.store.setOnline(batch);
};

const writeHeartbeats = async (deps: IngestDeps, rows: HeartbeatRow[], since: number): Promise<void> => {
  if (rows.length === 0) return;
  for (const batch of inBatches(rows, BATCH_ROWS_MAX)) await deps.store.saveHeartbeats(batch);
  deps.observer.message('heartbeat', 'saved', rows.length);
  deps.observer.ingested('heartbeat', performance.now() - since);
};

const writeReports = async (deps: LaneDeps, batch: Report[], since: number): Promise<void> => {
  if (batch.length === 0) return;
  const received = await receiveReports(deps, batch);
  for (const { device, ack } of received.acks) deps.link.acknowledge(device, ack);
  for (const { device, why } of received.refusedReceipts) {
    deps.observer.receiptRefused();
    deps.complain(device, 'receipt-refused', `a receipt was refused: ${why}`);
  }
  deps.observer.message('state', 'saved', received.saved);
  deps.observer.message('state', 'seen', received.acks.length - received.saved);
  deps.observer.message('state', 'lost', batch.length - received.acks.length);
  deps.observer.ingested('state', performance.now() - since);
  for (const rollout of received.moved) deps.wake(rollout);
};
