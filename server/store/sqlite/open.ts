/**
 * How to get a store on SQLite: in a thread of its own for a server, in-process for a simulation. See
 * docs/decisions/0002.
 */
import { Worker } from 'node:worker_threads';
import { implementStore } from '../methods/implement-store.ts';
import type { Store } from '../store.ts';
import { openSql } from './sql.ts';
import type { FromWorker, Request, SentError, WorkerInput } from './wire.ts';

/**
 * The database or its thread failed. `code` is SQLite's (`SQLITE_FULL`, ...) where there is one; `cause` is the
 * original.
 */
export class StoreError extends Error {
  readonly code: string | undefined;
  constructor(message: string, cause: unknown, code?: string) {
    super(message, { cause });
    this.name = 'StoreError';
    this.code = code;
  }
}

/**
 * Calls that wait for the thread at once. It does thousands a second, so a caller that reaches this has stopped waiting
 * for answers.
 */
const PENDING_MAX = 10_000;

type Pending = { method: string; resolve(value: unknown): void; reject(error: Error): void };

const revive = (sent: SentError): Error => {
  const error = Object.assign(new Error(sent.message), { name: sent.name, code: sent.code });
  if (sent.stack !== undefined) error.stack = sent.stack;
  return error;
};

/**
 * Opens or makes the database `file` in a thread of its own, so that checkpoints and large queries never hold up the
 * sockets. Throws when it cannot be opened, or was written by a newer Sluice.
 */
export const openSqliteStore = (file: string): Promise<Store> => {
  const input: WorkerInput = { file };
  return connectStore(new Worker(new URL('./worker.ts', import.meta.url), { workerData: input }));
};

/**
 * The main thread's side of a worker that runs worker.ts. When it dies, every call that waits or comes later is
 * rejected.
 */
export const connectStore = (worker: Worker): Promise<Store> => {
  const pending = new Map<number, Pending>();
  let calls = 0;
  /** Set once the thread takes no more calls. */
  let ended: StoreError | undefined;
  const opened = Promise.withResolvers<Store>();
  const exited = Promise.withResolvers<void>();

  const end = (error: StoreError): void => {
    ended ??= error;
    opened.reject(ended);
    for (const call of pending.values()) call.reject(ended);
    pending.clear();
  };
  const call = (method: string, args: unknown[]): Promise<unknown> =>
    new Promise((resolve, reject) => {
      if (ended !== undefined) throw ended;
      if (pending.size >= PENDING_MAX) throw new StoreError(`store.${method}: too many calls wait`, undefined);
      calls += 1;
      const request: Request = { id: calls, method, args };
      // First post: arguments that cannot be cloned throw here, and leave nothing pending.
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
      worker.postMessage(request);
      pending.set(request.id, { method, resolve, reject });
    });
  const close = async (): Promise<void> => {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
    if (ended === undefined) worker.postMessage('close');
    ended ??= new StoreError('the store is closed', undefined);
    await exited.promise;
  };

  worker.on('message', (message: FromWorker) => {
    if ('ready' in message) {
      opened.resolve(
        storeOf(
          message.ready.map((name) => [name, (...args: unknown[]) => call(name, args)]),
          close,
        ),
      );
      return;
    }
    if ('failed' in message) {
      const cause = revive(message.failed);
      end(new StoreError(`the database cannot be opened: ${cause.message}`, cause, message.failed.code));
      return;
    }
    const waiting = pending.get(message.id);
    pending.delete(message.id);
    if (waiting === undefined) return;
    if ('value' in message) waiting.resolve(message.value);
    else {
      const cause = revive(message.error);
      waiting.reject(new StoreError(`store.${waiting.method}: ${cause.message}`, cause, message.error.code));
    }
  });
  worker.on('messageerror', (error) => {
    end(new StoreError("an answer of the database's thread was lost", error));
    void worker.terminate();
  });
  worker.on('error', (error) => end(new StoreError("the database's thread failed", error)));
  worker.on('exit', (code) => {
    end(new StoreError(`the database's thread ended with code ${code}`, undefined));
    exited.resolve();
  });
  return opened.promise;
};

/**
 * The same store without a thread: for simulations, and for tests that make thousands of them. Nothing else should
 * block its loop.
 */
export const openInProcessStore = (file: string): Store => {
  const sql = openSql(file);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- see `storeOf`
  const methods = Object.entries(implementStore(sql)) as [string, Method][];
  const explained = methods.map(([name, method]): [string, Method] => [
    name,
    (...args) =>
      method(...args).catch((cause: unknown) => {
        const code = cause instanceof Error && 'code' in cause ? String(cause.code) : undefined;
        throw new StoreError(`store.${name}: ${cause instanceof Error ? cause.message : String(cause)}`, cause, code);
      }),
  ]);
  return storeOf(explained, async () => {
    // After everything that was asked before.
    await sql.transaction(async () => undefined).finally(() => sql.close());
  });
};

type Method = (...args: unknown[]) => Promise<unknown>;
const storeOf = (methods: [string, Method][], close: () => Promise<void>): Store =>
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- TypeScript cannot follow a mapped type through its entries
  ({ ...Object.fromEntries(methods), close }) as Store;
