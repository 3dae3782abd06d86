/** The thread that owns the database. One request is one method call; they are answered in the order in which they came. */
import { parentPort, workerData } from 'node:worker_threads';
import { implementStore } from './implementation.ts';
import { openSql } from './sql.ts';
import { methodsOf } from './sync.ts';
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
  const methods = new Map(methodsOf(implementStore(sql)));
  const answer = (request: Request): Answer => {
    try {
      return { id: request.id, value: methods.get(request.method)!(...request.args) };
    } catch (error) {
      return { id: request.id, error: describe(error) };
    }
  };
  port.on('message', (request: Request | 'close') => {
    if (request !== 'close') {
      post(answer(request));
      return;
    }
    sql.close();
    port.close();
  });
  post({ ready: [...methods.keys()] });
};

try {
  const input: WorkerInput = workerData;
  serve(input.file);
} catch (error) {
  post({ failed: describe(error) });
}
