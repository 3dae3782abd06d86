/**
 * Making a pack in a thread of its own: minutes of computing at the best level, none of it on the loop that serves
 * devices.
 */
import { Worker } from 'node:worker_threads';
import { Sha256 } from '#shared/ids.ts';

/** Paths of an artifact and of its chunk index. */
export type PackFiles = { artifact: string; index: string };
export type PackInput = { to: PackFiles; from: PackFiles | null; level: number; out: string };
export type PackAnswer =
  | { ok: true; sha256: string; bytes: number }
  | { ok: false; message: string; code: string | undefined };

/**
 * Writes the pack to `out`, which must not exist. Throws when it cannot be made (with the `code` of the system), or
 * `signal` aborts.
 */
export const makePackFile = async (
  input: PackInput,
  signal: AbortSignal,
): Promise<{ sha256: Sha256; bytes: number }> => {
  signal.throwIfAborted();
  const worker = new Worker(new URL('./pack-worker.ts', import.meta.url), { workerData: input });
  const ended = Promise.withResolvers<PackAnswer>();
  const abort = (): void => void worker.terminate();
  signal.addEventListener('abort', abort);
  worker.once('message', (answer: PackAnswer) => ended.resolve(answer));
  worker.once('error', (error) => ended.reject(error));
  worker.once('exit', (code) => ended.reject(new Error(`the thread that made a pack ended with code ${code}`)));
  try {
    const answer = await ended.promise;
    if (answer.ok) return { sha256: Sha256.parse(answer.sha256), bytes: answer.bytes };
    throw Object.assign(new Error(answer.message), { code: answer.code });
  } finally {
    signal.removeEventListener('abort', abort);
    // A caller that stops must find the file no longer in the making.
    await worker.terminate();
  }
};
