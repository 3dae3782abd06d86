import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openSpread } from '#agent/server/spread.ts';

const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-spread-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};
const rig = async (dir: string) => {
  const writes: Promise<void>[] = [];
  const attempt = (_what: string, act: () => Promise<unknown>): Promise<void> => {
    const write = act().then(() => undefined);
    writes.push(write);
    return write;
  };
  return { spread: await openSpread(dir, { attempt }), writes, settled: () => Promise.all(writes) };
};

test('what the server says is known after a restart, and written only when it has changed by much', async () => {
  const dir = await folder();
  const first = await rig(dir);
  expect(first.spread.ms()).toBe(0);
  for (const ms of [20_000, 20_000, 21_000, 22_000, 19_000]) first.spread.learn(ms);
  await first.settled();
  expect([first.spread.ms(), first.writes.length]).toEqual([19_000, 1]);
  const second = await rig(dir);
  expect(second.spread.ms()).toBe(20_000);
  second.spread.learn(undefined);
  await second.settled();
  expect((await rig(dir)).spread.ms()).toBe(0);
});

test('a damaged or hostile file delays no one for longer than ten minutes', async () => {
  const dir = await folder();
  for (const [text, ms] of [
    ['{', 0],
    ['{"v":1,"spreadMs":-5}', 0],
    ['{"v":1,"spreadMs":1e300}', 600_000],
    ['{"v":2,"spreadMs":5000}', 0],
  ] as const) {
    await writeFile(join(dir, 'spread.json'), text);
    expect([text, (await rig(dir)).spread.ms()]).toEqual([text, ms]);
    expect(await readFile(join(dir, 'spread.json'), 'utf8')).toBe(text);
  }
});
