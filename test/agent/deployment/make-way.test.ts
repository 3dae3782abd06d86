import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { Journal } from '#agent/deployment/journal.ts';
import { makingWay, removeLeftovers } from '#agent/deployment/make-way.ts';
import type { InstallState } from '#agent/domain/install-state.ts';
import type { Memory } from '#agent/domain/memory.ts';
import { freshMemory, offerOf } from '../domain/model.ts';

const dataFolder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-way-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  for (const name of ['downloads', 'artifacts', 'application', 'trust']) {
    await mkdir(join(dir, name));
    await writeFile(join(dir, name, 'file'), name);
  }
  return dir;
};

/** A journal that refuses the next so many times. */
const refusing = (code: string) => {
  const state = { left: 0, records: [] as Memory[] };
  const journal: Journal = {
    append: async (memory) => {
      state.left -= 1;
      if (state.left >= 0) throw Object.assign(new Error(code), { code });
      state.records.push(memory);
    },
    compact: async () => undefined,
    close: async () => undefined,
  };
  return { state, journal };
};
const journeyIn = (state: InstallState['state']): Memory => ({
  ...freshMemory(),
  install: { state, offer: offerOf(1), since: 0, transitions: 1, slot: 'b' } as InstallState,
});

test('on a full disk what can be fetched again makes way for the journal, and nothing else does', async () => {
  const dir = await dataFolder();
  const { state, journal } = refusing('ENOSPC');
  let letGo = 0;
  const { journal: making } = makingWay(dir, { letGo: async () => void (letGo += 1) }, journal);
  state.left = 1;
  await making.append(freshMemory());
  expect(state.records).toEqual([freshMemory()]);
  expect([(await readdir(dir)).sort(), letGo]).toEqual([['application', 'trust'], 1]);
});

test('downloads that are about to be written, or are being made, stay', async () => {
  for (const [first, second, stays] of [
    ['verified', undefined, true],
    ['fetching', undefined, false],
    ['waiting', 'fetching', true],
    ['fetching', 'failed', false],
  ] as const) {
    const dir = await dataFolder();
    const { state, journal } = refusing('ENOSPC');
    const { journal: making } = makingWay(dir, {}, journal);
    if (second !== undefined) await making.append(journeyIn(first));
    state.left = 1;
    await making.append(journeyIn(second ?? first));
    expect([first, second, (await readdir(dir)).includes('downloads')]).toEqual([first, second, stays]);
  }
});

test('a disk that fails otherwise keeps what it has, and one that stays full says so', async () => {
  const dir = await dataFolder();
  const broken = refusing('EIO');
  broken.state.left = 1;
  await expect(makingWay(dir, {}, broken.journal).journal.append(freshMemory())).rejects.toMatchObject({ code: 'EIO' });
  expect(await readdir(dir)).toContain('artifacts');
  const full = refusing('ENOSPC');
  full.state.left = 2;
  await expect(makingWay(dir, {}, full.journal).journal.append(freshMemory())).rejects.toMatchObject({
    code: 'ENOSPC',
  });
});

test('what a cut has left between writing and renaming is removed, and what only looks like it is not', async () => {
  const dir = await dataFolder();
  const names = ['floor.json.0123abcd.tmp', 'trust/root.json.ffffffff.tmp', 'status.json.tmp', 'trust/notes.tmp'];
  for (const name of names) await writeFile(join(dir, name), '');
  await writeFile(join(dir, 'application/x.0123abcd.tmp'), 'of the application');
  await removeLeftovers(dir);
  const left = (await readdir(dir, { recursive: true })).filter((name) => name.endsWith('.tmp'));
  expect(left.sort()).toEqual(['application/x.0123abcd.tmp', 'status.json.tmp', 'trust/notes.tmp']);
  await removeLeftovers(join(dir, 'not-there'));
});
