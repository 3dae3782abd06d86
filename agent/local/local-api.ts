/**
 * What local programs may ask and say, over HTTP on a Unix socket (docs/local-api.md): the state, every change of it,
 * and whether an update that wants to install or to activate may. Who may open the socket may do all of it; it reaches
 * nothing else of the agent.
 */
import { once } from 'node:events';
import { chmod, rm } from 'node:fs/promises';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import type { Holds } from '../deployment/holds.ts';
import type { Log } from '../log.ts';
import { errorCode } from '../process/system-error.ts';
import type { StatusFile } from './status-file.ts';

export type LocalApiOptions = {
  socket: string;
  /** Of the socket's file. */
  mode: number;
  status: Pick<StatusFile, 'now' | 'watch'>;
  holds: Pick<Holds, 'defer' | 'consent'>;
  log: Log;
};

export type LocalApi = { stop(): Promise<void> };

/** sun_path of unix(7), with its closing zero. */
const PATH_BYTES_MAX = 107;
const CONNECTIONS_MAX = 32;
const BODY_BYTES_MAX = 4_096;
const REQUEST_MS_MAX = 5_000;
const GOODBYE_MS_MAX = 500;
const LISTEN_AGAIN_MS = 30_000;

const Deferral = z.strictObject({
  seconds: z.number().min(0).max(31_536_000),
  reason: z
    .string()
    .max(200)
    .regex(/^\P{Cc}*$/u, 'no control characters')
    .optional(),
});

/** An agent without its socket goes on: it is there for its device, not for this. */
export const openLocalApi = async (options: LocalApiOptions): Promise<LocalApi> => {
  const { socket, log } = options;
  if (Buffer.byteLength(socket) > PATH_BYTES_MAX) {
    log.warn({ event: 'local-api-closed' }, `the path ${socket} is too long for a socket: set local.socket`);
    return { stop: async () => undefined };
  }
  const watching = new Set<ServerResponse>();
  const server = process.getBuiltinModule('node:http').createServer((asked, answer) => {
    void route({ ...options, watching }, asked, answer).catch((error: unknown) => {
      log.warn({ event: 'local-api-failed', err: error }, 'a local program could not be answered');
      say(answer, 500, { detail: 'this is a fault of the agent: see its log' });
    });
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.requestTimeout = REQUEST_MS_MAX;
  const listen = async (): Promise<void> => {
    // Left by an agent that was killed; the folder's lock says that there is no other.
    await rm(socket, { force: true });
    server.listen(socket);
    await once(server, 'listening');
    await chmod(socket, options.mode);
    // From then on: a connection that could not be accepted.
    server.on('error', (error) => log.warn({ event: 'local-api-failed', err: error }, 'a local program was not heard'));
  };
  let again: NodeJS.Timeout | undefined;
  /** Its folder may be on a disk that cannot be written now. */
  const insist = (): void => {
    again = setTimeout(() => void listen().catch(insist), LISTEN_AGAIN_MS);
    again.unref();
  };
  await listen().catch((error: unknown) => {
    log.warn(
      { event: 'local-api-closed', code: errorCode(error) },
      `${socket} cannot be opened for local programs yet`,
    );
    insist();
  });
  return {
    stop: async () => {
      clearTimeout(again);
      await close(server, watching, socket);
    },
  };
};

const close = async (server: Server, watching: Set<ServerResponse>, socket: string): Promise<void> => {
  if (!server.listening) return;
  const ends = [...watching].map((answer) => once(answer.end(), 'finish'));
  await Promise.race([Promise.allSettled(ends), sleep(GOODBYE_MS_MAX, undefined, { ref: false })]);
  server.closeAllConnections();
  server.close();
  await once(server, 'close');
  await rm(socket, { force: true }).catch(() => undefined);
};

const say = (answer: ServerResponse, status: number, body: object): void => {
  if (answer.headersSent) return void answer.destroy();
  answer.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`);
};

/**
 * A line for each state. Who does not read gets, when they do, the newest instead of all of them, with how many were
 * `missed`.
 */
const telling = (answer: ServerResponse): ((state: object) => void) => {
  let waiting: { state: object; missed: number } | undefined;
  const write = (state: object): void => void answer.write(`${JSON.stringify(state)}\n`);
  answer.on('drain', () => {
    if (waiting === undefined) return;
    const { state, missed } = waiting;
    waiting = undefined;
    write(missed === 0 ? state : { ...state, missed });
  });
  return (state) => {
    if (answer.writableNeedDrain) waiting = { state, missed: waiting === undefined ? 0 : waiting.missed + 1 };
    else write(state);
  };
};

const route = async (
  { status, holds, watching }: LocalApiOptions & { watching: Set<ServerResponse> },
  asked: IncomingMessage,
  answer: ServerResponse,
): Promise<void> => {
  switch (`${asked.method} ${asked.url}`) {
    case 'GET /v1/state':
      return say(answer, 200, await status.now());
    case 'GET /v1/watch': {
      answer.writeHead(200, { 'content-type': 'application/x-ndjson' });
      const tell = telling(answer);
      const unwatch = status.watch(tell);
      watching.add(answer);
      answer.once('close', () => {
        unwatch();
        watching.delete(answer);
      });
      return tell(await status.now());
    }
    case 'POST /v1/consent': {
      const consented = await holds.consent();
      return consented.ok ? say(answer, 200, {}) : say(answer, 409, { detail: consented.why });
    }
    case 'POST /v1/defer': {
      const deferral = Deferral.safeParse(await readBody(asked));
      if (!deferral.success) return say(answer, 400, { detail: z.prettifyError(deferral.error) });
      const { seconds, reason } = deferral.data;
      const deferred = await holds.defer(seconds * 1_000, reason ?? null);
      return deferred.ok ? say(answer, 200, { hold: deferred.hold }) : say(answer, 409, { detail: deferred.why });
    }
    default:
      return say(answer, 404, { detail: 'GET /v1/state, GET /v1/watch, POST /v1/defer, POST /v1/consent' });
  }
};

/** Undefined when it is too long or no JSON, which no schema accepts. */
const readBody = async (asked: IncomingMessage): Promise<unknown> => {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of asked) {
    const buffer = Buffer.from(piece);
    bytes += buffer.length;
    if (bytes > BODY_BYTES_MAX) return undefined;
    pieces.push(buffer);
  }
  try {
    return JSON.parse(Buffer.concat(pieces).toString('utf8'));
  } catch {
    return undefined;
  }
};
