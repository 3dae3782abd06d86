import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { lookOutside } from '#agent/process/outside.ts';

/** Reading it hangs until someone writes. */
const pipeFile = async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-outside-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const file = join(dir, 'pipe');
  await promisify(execFile)('mkfifo', [file]);
  // A reader that waits for a writer goes on, also when that is gone already.
  const answer = async (): Promise<void> => (await open(file, constants.O_RDWR | constants.O_NONBLOCK)).close();
  return { dir, file, answer };
};

test('files that never answer leave threads to the agent; who looks at more of them is told at once', async () => {
  const { dir, file, answer } = await pipeFile();
  const looks = Array.from({ length: 8 }, () => lookOutside(() => readFile(file), { msMax: 200 }));
  expect(await Promise.allSettled(looks)).toEqual(
    looks.map(() => ({ status: 'rejected', reason: expect.objectContaining({ code: 'ETIMEDOUT' }) })),
  );
  await writeFile(join(dir, 'own'), 'x');
  expect(await readFile(join(dir, 'own'), 'utf8')).toBe('x');
  await expect(lookOutside(() => stat(dir), { msMax: 600_000 })).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  await answer();
  const isServed = () =>
    lookOutside(() => stat(dir)).then(
      () => true,
      () => false,
    );
  await expect.poll(isServed).toBe(true);
});

test('looks wait for their turn, and one that is not wanted any more ends at once', async () => {
  const { dir } = await pipeFile();
  const many = await Promise.all(Array.from({ length: 50 }, () => lookOutside(() => stat(dir))));
  expect(many.every((one) => one.isDirectory())).toBe(true);
  const stop = new AbortController();
  const { promise, resolve } = Promise.withResolvers();
  const stopped = lookOutside(() => promise, { signal: stop.signal, msMax: 600_000 });
  stop.abort();
  await expect(stopped).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  resolve(undefined);
});
