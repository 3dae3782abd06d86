/**
 * The last lines of the application and of the agent, kept when a deployment fails until the server has acknowledged
 * them: over MQTT while that is connected, else over HTTP. Bounded in number, size and age; what is lost in the end is
 * words, never a receipt. The device's secrets are taken out before anything is kept.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { deviceRoutes } from '#shared/device-api.ts';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { Id } from '#shared/ids.ts';
import { LOG_PARTS_MAX, type LogAck, LogPiece } from '#shared/messages.ts';
import type { KeepLog } from '../deployment/perform-parts.ts';
import { type Backoff, backoffMs } from '../domain/backoff.ts';
import type { Log } from '../log.ts';
import { asFarAsPossible } from '../process/system-error.ts';
import type { Http } from '../server/http.ts';
import type { Link } from '../server/link.ts';

type LogSource = LogPiece['source'];
export type KeptLogs = {
  keep: KeepLog;
  acknowledged: (ack: LogAck) => void;
  stop(): Promise<void>;
};

export type KeptLogsOptions = {
  dir: string;
  boot: Id;
  /** What each source wrote last. */
  last: Record<LogSource, () => Promise<string> | string>;
  /** What may leave the device of a text. */
  withoutSecrets(text: string): Promise<string>;
  link: () => Pick<Link, 'publish' | 'connected'> | undefined;
  http: Pick<Http, 'postOwn'>;
  backoff: Backoff;
  now: () => number;
  log: Log;
  /** How long an acknowledgement over MQTT may take. */
  ackMs?: number;
};

/** As JSON, with all that has to be escaped, well below what one message may have. */
const PIECE_CHARS_MAX = 12 * 1024;
const PIECES_MAX = 24;
const ACK_MS = 10_000;
/** Between pieces, so that reports get through. */
const GAP_MS = 200;
const Kept = LogPiece.omit({ boot: true });
type Kept = z.infer<typeof Kept>;

export const openKeptLogs = async (options: KeptLogsOptions): Promise<KeptLogs> => {
  const { dir, now, log } = options;
  await asFarAsPossible(mkdir(dir, { recursive: true, mode: 0o700 }));
  const stopping = new AbortController();
  const waiting = new Map<string, () => void>();
  let wake = new AbortController();

  const keep: KeptLogs['keep'] = async (about, source) => {
    try {
      const text = harmless(await options.withoutSecrets(await options.last[source]()));
      if (text.trim() === '') return;
      const parts = cut(text);
      const name = about === null ? `${options.boot} ${now()}` : `${about.deployment} ${about.attempt ?? 1}`;
      for (const [index, part] of parts.entries()) {
        const id = Id.parse(createHash('sha256').update(`${name} ${source} ${index}`).digest('hex').slice(0, 32));
        // Before a restart it was nearer to what happened.
        if ((await readFileIfThere(fileOf(dir, id))) !== undefined) continue;
        const kept: Kept = {
          id,
          deployment: about?.deployment ?? null,
          source,
          part: index + 1,
          parts: parts.length,
          at: Math.max(0, now()),
          text: part,
        };
        await writeFileDurably(fileOf(dir, id), JSON.stringify(kept), 0o600);
      }
      wake.abort();
    } catch (error) {
      log.warn({ event: 'log-not-kept', err: error }, `the last lines of the ${source} could not be kept`);
    }
  };

  const overMqtt = async (piece: LogPiece): Promise<boolean> => {
    const acknowledged = Promise.withResolvers<boolean>();
    waiting.set(piece.id, () => acknowledged.resolve(true));
    try {
      if (options.link()?.publish('log', piece) !== true) return false;
      const tooLate = sleep(options.ackMs ?? ACK_MS, false, { signal: stopping.signal, ref: false }).catch(() => false);
      return await Promise.race([acknowledged.promise, tooLate]);
    } finally {
      waiting.delete(piece.id);
    }
  };

  /** `refused`: the server will never take it. */
  const send = async (kept: Kept): Promise<'kept' | 'refused' | 'later'> => {
    const piece = { ...kept, boot: options.boot };
    if (options.link()?.connected() === true && (await overMqtt(piece))) return 'kept';
    if (stopping.signal.aborted) return 'later';
    const { path, answer } = deviceRoutes.logs;
    const answered = await options.http.postOwn(path, { pieces: [piece] }, answer, stopping.signal);
    if (answered.ok) return answered.value.kept.includes(kept.id) ? 'kept' : 'later';
    return answered.code === 'invalid-request' ? 'refused' : 'later';
  };

  const sending = (async () => {
    let failures = 0;
    const done = new Set<string>();
    while (!stopping.signal.aborted) {
      wake = new AbortController();
      const next = await oldestOf(dir, done).catch(() => undefined);
      if (next === undefined) {
        await aborted(AbortSignal.any([wake.signal, stopping.signal]));
        continue;
      }
      const outcome = await send(next).catch(() => 'later' as const);
      if (outcome === 'refused')
        log.warn({ event: 'log-refused', id: next.id }, 'the server does not take a log piece');
      if (outcome !== 'later') {
        // On a disk that cannot be written it stays until the next life, and is not sent again in this one.
        await rm(fileOf(dir, next.id), { force: true }).catch(() => done.add(next.id));
      }
      failures = outcome === 'later' ? failures + 1 : 0;
      const waitMs = failures === 0 ? GAP_MS : backoffMs(failures, options.backoff, Math.random());
      await sleep(waitMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  })();
  sending.catch((error: unknown) => log.error({ event: 'logs-not-sent', err: error }, 'logs are not sent any more'));

  return {
    keep,
    acknowledged: ({ boot, log: id }) => {
      if (boot === options.boot) waiting.get(id)?.();
    },
    stop: async () => {
      stopping.abort();
      await sending.catch(() => undefined);
    },
  };
};

const fileOf = (dir: string, id: string): string => join(dir, `${id}.json`);

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });

/** Terminals obey control characters. */
const harmless = (text: string): string =>
  // oxlint-disable-next-line no-control-regex -- they are what is meant
  text.replace(/\u001b\[[0-9;?]*[ -/]*[@-~]/g, '').replace(/[\u0000-\u0008\u000B-\u001F\u007F]/g, ' ');

/** The newest come last, and are what is kept when it is too long. */
const cut = (text: string): string[] => {
  const whole = text.slice(-PIECE_CHARS_MAX * LOG_PARTS_MAX);
  return Array.from({ length: Math.ceil(whole.length / PIECE_CHARS_MAX) }, (_, index) =>
    whole.slice(index * PIECE_CHARS_MAX, (index + 1) * PIECE_CHARS_MAX),
  );
};

/** What is too much, or no piece, goes. How old it is says only a clock that may have been set since. */
const oldestOf = async (dir: string, done: ReadonlySet<string>): Promise<Kept | undefined> => {
  const names = (await readdir(dir)).filter(
    (name) => name.endsWith('.json') && !done.has(name.slice(0, -'.json'.length)),
  );
  const files = await Promise.all(
    names.map(async (name) => ({ name, at: (await stat(join(dir, name)).catch(() => undefined))?.mtimeMs ?? 0 })),
  );
  files.sort((one, two) => one.at - two.at);
  const tooMany = Math.max(0, files.length - PIECES_MAX);
  for (const [index, { name }] of files.entries()) {
    const piece = index < tooMany ? undefined : await readKept(join(dir, name));
    if (piece !== undefined) return piece;
    await asFarAsPossible(rm(join(dir, name), { force: true }));
  }
  return undefined;
};

const readKept = async (file: string): Promise<Kept | undefined> => {
  const bytes = await readFileIfThere(file);
  try {
    return bytes === undefined ? undefined : Kept.safeParse(JSON.parse(bytes.toString('utf8'))).data;
  } catch {
    return undefined;
  }
};
