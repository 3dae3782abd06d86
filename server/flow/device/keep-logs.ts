/**
 * The last lines that a device and its application wrote before a failure. Kept within limits, since a device may send
 * what it wants; what they say is no one's word but the device's.
 */
import type { Logger } from 'pino';
import type { DeviceLogRecord } from '#server/store/ingest.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';
import type { LogAck, LogPiece } from '#shared/messages.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { perKey } from '#shared/token-bucket.ts';
import type { DeviceLogView } from '#shared/views.ts';
import { readIndex } from './device-history.ts';

/** Of each device: some twenty failures. */
const DEVICE_BYTES_MAX = 512 * 1024;
/** Of all devices together, and for how long. */
const BYTES_MAX = 256 * 1024 ** 2;
const KEPT_MS = 30 * 86_400_000;
/** Pieces of one device: those of a few failures at once, then one a minute. What is refused comes again. */
const RATE = { burst: 32, perSecond: 1 / 60 };
const DEVICES_MAX = 100_000;
/** Of all devices at once; more are not acknowledged, and come again. */
const WAITING_MAX = 1_000;

export type LogKeeper = {
  /** The ids that are kept now. Refusal: `rate-limited`. */
  keep(device: Id, pieces: LogPiece[]): Promise<Result<{ kept: Id[] }>>;
  /** Takes one piece, never throws, never waits, and acknowledges what is kept. */
  overMqtt(acknowledge: (device: Id, ack: LogAck) => void): (device: Id, piece: LogPiece) => void;
  /** Resolves when nothing is being written any more. */
  stop(): Promise<void>;
};

export const makeLogKeeper = (deps: {
  store: Pick<Store, 'saveDeviceLogs'>;
  now: () => number;
  log: Pick<Logger, 'info' | 'error'>;
}): LogKeeper => {
  const { store, now, log } = deps;
  const may = perKey(RATE, DEVICES_MAX);
  const writing = new Set<Promise<void>>();

  const save = async (device: Id, pieces: LogPiece[]): Promise<void> => {
    const receivedAt = now();
    await store.saveDeviceLogs(
      pieces.map((piece) => ({ ...piece, device, receivedAt })),
      DEVICE_BYTES_MAX,
    );
    for (const { deployment, source, part, parts } of pieces)
      log.info(
        { event: 'device-log', deviceId: device, deployment, source, part, parts },
        'a device sent its last lines',
      );
  };

  return {
    keep: async (device, pieces) => {
      const allowed = pieces.filter(() => may(device, now()));
      if (allowed.length === 0) return refuse('rate-limited', 'too many log pieces: send them again in some minutes');
      await save(device, allowed);
      return accept({ kept: allowed.map(({ id }) => id) });
    },
    overMqtt: (acknowledge) => (device, piece) => {
      if (writing.size >= WAITING_MAX || !may(device, now())) return;
      const written = save(device, [piece])
        .then(() => acknowledge(device, { boot: piece.boot, log: piece.id }))
        .catch((error: unknown) =>
          log.error(
            { event: 'device-log-lost', deviceId: device, err: error },
            'the last lines of a device could not be kept',
          ),
        )
        .finally(() => writing.delete(written));
      writing.add(written);
    },
    stop: async () => {
      await Promise.all(writing);
    },
  };
};

/** Newest first. Refusals: `not-found`, `invalid-request`. */
export const listLogs = async (
  { store }: { store: Pick<Store, 'getDevice' | 'listDeviceLogs'> },
  device: Id,
  query: { after?: string | undefined; limit: number; deployment?: Id | undefined },
): Promise<Result<{ items: DeviceLogView[]; next: string | null }>> => {
  const before = readIndex(query.after);
  if (!before.ok) return before;
  if ((await store.getDevice(device)) === undefined) return refuse('not-found', `there is no device ${device}`);
  const { deployment, limit } = query;
  const logs = await store.listDeviceLogs(device, { deployment }, { before: before.value, limit });
  const last = logs.at(-1);
  return accept({
    items: logs.map(viewOf),
    next: last !== undefined && logs.length === limit ? String(last.n) : null,
  });
};

const viewOf = ({
  id,
  deployment,
  source,
  part,
  parts,
  boot,
  at,
  receivedAt,
  text,
}: DeviceLogRecord): DeviceLogView => ({
  id,
  deployment,
  source,
  part,
  parts,
  boot,
  at,
  receivedAt,
  text,
});

/** Housekeeping: how many pieces went. */
export const trimLogs = (deps: { store: Pick<Store, 'trimDeviceLogs'>; now: () => number }): Promise<number> =>
  deps.store.trimDeviceLogs(deps.now() - KEPT_MS, BYTES_MAX);
