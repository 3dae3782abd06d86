/**
 * The thread that owns the database. One request is one method call; they are answered in the order in which they came.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { implementStore } from '../methods/implement-store.ts';
import { openSql } from './sql.ts';
import type { Answer, FromWorker, Request, SentError, WorkerInput } from './wire.ts';

const port = parentPort!;
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
const post = (message: FromWorker): void => port.postMessage(message);

/** Errors lose their class and code when they cross threads, so what matters is sent as data. */
const describe = (error: unknown): SentError =>
  error instanceof Error
    ? {
        name: error.name,
        message: error.message,
        stack: error.stack,
        code: 'code' in error && typeof error.code === 'string' ? error.code : undefined,
      }
    : { name: 'Error', message: String(error), stack: undefined, code: undefined };

const serve = (file: string): void => {
  const sql = openSql(file);
  const methods = new Map<string, (...args: never[]) => Promise<unknown>>(Object.entries(implementStore(sql)));
  const answer = async ({ id, method, args }: Request): Promise<Answer> => {
    try {
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the one who calls by name has the arguments of that name
      return { id, value: await methods.get(method)!(...(args as never[])) };
    } catch (error) {
      return { id, error: describe(error) };
    }
  };
  const close = async (): Promise<void> => {
    // After everything that was asked before.
    await sql.transaction(async () => undefined);
    sql.close();
    port.close();
  };
  port.on('message', (request: Request | 'close') => {
    void (request === 'close' ? close() : answer(request).then(post));
  });
  post({ ready: [...methods.keys()] });
};

try {
  const input: WorkerInput = workerData;
  serve(input.file);
} catch (error) {
  post({ failed: describe(error) });
}
