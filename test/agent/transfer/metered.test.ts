import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { MeteredConfig } from '#agent/config/metered-config.ts';
import { openMetered } from '#agent/transfer/metered.ts';

const openLink = async (config: object, times: { elapsedMs?: number; expires?: number } = {}) => {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-metered-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'metered');
  const said: string[] = [];
  const stop = new AbortController();
  const ask = openMetered({
    config: MeteredConfig.parse({ file, ...config }),
    folder,
    elapsedMs: times.elapsedMs ?? 0,
    expires: times.expires ?? Date.now() + 60_000,
    now: Date.now,
    log: { info: (...words: unknown[]) => void said.push(String(words[1])) },
    lookMs: 5,
  });
  return {
    said,
    stop,
    metered: () => writeFile(file, ''),
    free: () => rm(file),
    may: (fetched: number, bytes: number) => ask(fetched, bytes, stop.signal),
  };
};

test('a link that is not metered, and a policy that allows, hold nothing back', async () => {
  const link = await openLink({ policy: 'forbid' });
  expect(await link.may(0, 1e9)).toBe(true);
  const allowed = await openLink({ policy: 'allow' });
  await allowed.metered();
  expect(await allowed.may(0, 1e9)).toBe(true);
});

test('what is forbidden waits for another link, and says so once', async () => {
  const link = await openLink({ policy: 'forbid' });
  await link.metered();
  let decided: boolean | undefined;
  const waiting = link.may(0, 1000).then((may) => (decided = may));
  await expect.poll(() => link.said).toHaveLength(1);
  expect(decided).toBeUndefined();
  await link.free();
  expect(await waiting).toBe(true);
  expect(link.said).toHaveLength(1);
});

test('a delay is over after its time, counted from the beginning of the fetch', async () => {
  const link = await openLink({ policy: 'delay', delayMs: 30 });
  await link.metered();
  expect(await link.may(0, 1000)).toBe(true);
  const resumed = await openLink({ policy: 'delay', delayMs: 3_600_000 }, { elapsedMs: 3_600_001 });
  await resumed.metered();
  expect(await resumed.may(0, 1000)).toBe(true);
  expect(resumed.said).toEqual([]);
});

test('the end of the offer, or a stop, ends the wait', async () => {
  const expired = await openLink({ policy: 'forbid' }, { expires: Date.now() - 1 });
  await expired.metered();
  expect(await expired.may(0, 1000)).toBe(false);
  const link = await openLink({ policy: 'forbid' });
  await link.metered();
  const waiting = link.may(0, 1000);
  link.stop.abort();
  expect(await waiting).toBe(false);
});

test('small updates go over any link, up to the bytes that are free', async () => {
  const link = await openLink({ policy: 'forbid', bytesFree: 1_000 }, { expires: Date.now() - 1 });
  await link.metered();
  expect(await link.may(0, 1_000)).toBe(true);
  expect(await link.may(600, 401)).toBe(false);
});

test('a command says by its exit code whether the link is metered; one that cannot be run counts as if it were', async () => {
  for (const [command, may] of [
    [['false'], true],
    [['true'], false],
    [['no-such-program-here'], false],
  ] as const) {
    const link = await openLink({ policy: 'forbid', command }, { expires: Date.now() - 1 });
    expect(await link.may(0, 1_000)).toBe(may);
  }
});
