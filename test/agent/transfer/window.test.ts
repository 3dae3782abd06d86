import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openWindow } from '#agent/transfer/window.ts';
import { noise } from '#test/shared/transfer/bytes.ts';

const CHUNK = 50_000;
const SECOND = 1_000;

/** `artifact`: what is put, in chunks; the clock stands still unless it is told. */
const openFile = async (chunks: number) => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-window-'));
  const path = join(dir, 'file');
  const file = await open(path, 'w+');
  onTestFinished(async () => {
    await file.close();
    await rm(dir, { recursive: true, force: true });
  });
  const clock = { now: 5 };
  const window = openWindow(
    file,
    () => undefined,
    () => clock.now,
  );
  const artifact = noise('window', chunks * CHUNK);
  /** Asks for the place of a chunk, as one does before it is fetched; `put` follows when it has come. */
  const begin = async (number: number): Promise<() => void> => {
    const place = await window.place(CHUNK);
    return () => {
      place.set(artifact.subarray(number * CHUNK, (number + 1) * CHUNK));
      window.put(CHUNK, true);
    };
  };
  const written = async (): Promise<number> => {
    await window.settle();
    return (await readFile(path)).length;
  };
  return { window, artifact, path, clock, begin, written };
};

test('of what comes slowly only the chunk on its way is not in the file', async () => {
  const { clock, begin, written, window, artifact, path } = await openFile(30);
  for (let number = 0; number < 30; number += 1) {
    const put = await begin(number);
    expect(await written()).toBe(number * CHUNK);
    clock.now += SECOND;
    put();
  }
  await window.finish();
  expect((await readFile(path)).equals(artifact)).toBe(true);
});

test('what comes fast is written in batches', async () => {
  const { begin, written, window, artifact, path } = await openFile(30);
  const sizes = new Set<number>();
  for (let number = 0; number < 30; number += 1) {
    (await begin(number))();
    sizes.add(await written());
  }
  expect(sizes.size).toBeLessThan(5);
  await window.finish();
  expect((await readFile(path)).equals(artifact)).toBe(true);
});

test('however slow or fast it comes, what was put before is there for dictionaries, and all of it in the file', async () => {
  const { clock, begin, window, artifact, path } = await openFile(40);
  for (let number = 0; number < 40; number += 1) {
    (await begin(number))();
    if (number % 3 === 0) clock.now += SECOND;
    for (const back of [1, 4, 5, 12]) {
      const start = (number + 1 - back) * CHUNK;
      if (start < 0) continue;
      const recent = await window.recent(start, CHUNK);
      expect(recent.equals(artifact.subarray(start, start + CHUNK))).toBe(true);
    }
  }
  await window.finish();
  expect((await readFile(path)).equals(artifact)).toBe(true);
});
