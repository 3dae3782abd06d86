/** Starts a process whose failures, whenever and however they come, end nothing but it. */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';

/**
 * `spawn` tells some failures by an event (ENOENT, EACCES, EAGAIN) and throws others (EPERM, ENOMEM, E2BIG, a NUL in a
 * word): these are the value here. Later errors of the child and its pipes have a listener, without which they would
 * end this process.
 */
export const startChild = (
  word: string,
  words: string[],
  options: SpawnOptions,
): { ok: true; child: ChildProcess } | { ok: false; error: unknown } => {
  try {
    const child = spawn(word, words, options);
    for (const emitter of [child, child.stdin, child.stdout, child.stderr]) emitter?.on('error', () => undefined);
    return { ok: true, child };
  } catch (error) {
    return { ok: false, error };
  }
};
