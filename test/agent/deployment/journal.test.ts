import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openJournal, readJournal } from '#agent/deployment/journal.ts';
import { JOURNAL_RESERVE_BYTES } from '#agent/deployment/journal-reserve.ts';
import { freeOn } from '#agent/disk/room.ts';
import type { Memory } from '#agent/domain/memory.ts';
import { freshMemory, offerOf } from '../domain/model.ts';
import { canMount, smallDisk } from '../small-disk.ts';

const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-journal-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};
const memoryOf = (number: number): Memory => ({
  ...freshMemory(),
  install: {
    state: 'reverting',
    offer: offerOf(number),
    since: number,
    transitions: number,
    slot: 'b',
    error: { code: 'TRIAL_CRASHED', message: 'naïve ☃ message' },
  },
  desiredSeq: number,
});
const written = async (dir: string, records: number): Promise<Buffer> => {
  const { journal } = await openJournal(dir);
  for (let number = 1; number <= records; number += 1) await journal.append(memoryOf(number));
  await journal.close();
  return readFile(join(dir, 'journal'));
};

test('a new journal is empty, and what is appended is there the next time', async () => {
  const dir = await folder();
  expect(await openJournal(dir)).toMatchObject({ memory: undefined, damage: null });
  await written(dir, 3);
  expect(await openJournal(dir)).toMatchObject({ memory: memoryOf(3), damage: null });
});

test('a journal that is cut off anywhere gives the newest whole record, and goes on from there', async () => {
  const dir = await folder();
  const bytes = await written(dir, 3);
  const firstEnd = bytes.indexOf(0x0a) + 1;
  const secondEnd = bytes.indexOf(0x0a, firstEnd) + 1;
  for (let length = firstEnd; length < bytes.length; length += 1) {
    const read = readJournal(bytes.subarray(0, length));
    const expected = length < secondEnd ? 1 : 2;
    expect(read, `cut at ${length}`).toMatchObject({ state: 'good', newest: memoryOf(expected) });
  }
  await writeFile(join(dir, 'journal'), bytes.subarray(0, bytes.length - 5));
  const opened = await openJournal(dir);
  expect(opened).toMatchObject({ memory: memoryOf(2), damage: { kind: 'torn-tail' } });
  // A shorter record over the torn tail leaves nothing of it behind.
  await opened.journal.append(freshMemory());
  await opened.journal.close();
  expect(await openJournal(dir)).toMatchObject({ memory: freshMemory(), damage: null });
});

test('a bit that flips anywhere is never believed: the record before is used, or the journal is put aside', async () => {
  const bytes = await written(await folder(), 3);
  const lastStart = bytes.lastIndexOf(0x0a, bytes.length - 2) + 1;
  for (let at = 0; at < bytes.length; at += 1) {
    const flipped = Buffer.from(bytes);
    flipped[at]! ^= 1 << (at % 8);
    const read = readJournal(flipped);
    // The newline before the last record belongs to both: without it both are one torn tail. Damage in the last record
    // is a torn tail too.
    const used = at >= lastStart ? 2 : at === lastStart - 1 ? 1 : undefined;
    expect(read.state === 'good' ? read.newest : undefined, `bit at ${at}`).toEqual(
      used === undefined ? undefined : memoryOf(used),
    );
  }
});

test('damage in the middle puts the file aside, and the next journal is new', async () => {
  const dir = await folder();
  for (let round = 1; round <= 7; round += 1) {
    const bytes = await written(dir, 3);
    bytes[40]! ^= 4;
    await writeFile(join(dir, 'journal'), bytes);
    const opened = await openJournal(dir);
    expect(opened).toMatchObject({ memory: undefined, damage: { kind: 'quarantined' } });
  }
  // Not without end.
  const aside = (await readdir(dir)).filter((name) => name.startsWith('journal.damaged-'));
  expect(aside.sort()).toEqual([3, 4, 5, 6, 7].map((number) => `journal.damaged-${number}`));
  await written(dir, 2);
  expect(await openJournal(dir)).toMatchObject({ memory: memoryOf(2), damage: null });
});

test('a single damaged record is damage, not a torn tail: a first record is never torn', async () => {
  const dir = await folder();
  const bytes = await written(dir, 1);
  bytes[30]! ^= 1;
  await writeFile(join(dir, 'journal'), bytes);
  expect(await openJournal(dir)).toMatchObject({ memory: undefined, damage: { kind: 'quarantined' } });
});

test('the journal is compacted by itself, and when asked', async () => {
  const dir = await folder();
  const { journal } = await openJournal(dir);
  for (let number = 1; number <= 501; number += 1) await journal.append(memoryOf(number));
  expect(readJournal(await readFile(join(dir, 'journal')))).toMatchObject({ records: 1, newest: memoryOf(501) });
  await journal.append(memoryOf(502));
  await journal.compact(memoryOf(503));
  await journal.append(memoryOf(504));
  await journal.close();
  expect(readJournal(await readFile(join(dir, 'journal')))).toMatchObject({ records: 2, newest: memoryOf(504) });
});

test('what a later version adds to a record does not hinder this one', async () => {
  const dir = await folder();
  const { journal } = await openJournal(dir);
  const later = { ...freshMemory(), mood: 'good' };
  await journal.append(later);
  await journal.close();
  expect((await openJournal(dir)).memory).toEqual(freshMemory());
});

test('room is kept for the journal, and made again when a new agent finds none', async () => {
  const dir = await folder();
  const { journal } = await openJournal(dir);
  await journal.append(memoryOf(1));
  await journal.close();
  expect((await stat(join(dir, 'journal.reserve'))).size).toBe(JOURNAL_RESERVE_BYTES);
  await rm(join(dir, 'journal.reserve'));
  const again = await openJournal(dir);
  await again.journal.append(memoryOf(2));
  await again.journal.close();
  expect((await stat(join(dir, 'journal.reserve'))).size).toBe(JOURNAL_RESERVE_BYTES);
});

test.skipIf(!canMount())(
  'a disk that others have filled to the brim takes a record all the same, from what is kept for it (on a small file system, which needs root)',
  async () => {
    const dir = await smallDisk(8 * 1024 * 1024);
    const { journal } = await openJournal(dir);
    for (let number = 1; number <= 30; number += 1) await journal.append(memoryOf(number));
    await writeFile(join(dir, 'filler'), Buffer.alloc(16 * 1024 * 1024)).catch(() => undefined);
    expect(await freeOn(dir)).toBe(0);
    for (let number = 31; number <= 60; number += 1) await journal.append(memoryOf(number));
    await journal.close();
    expect(readJournal(await readFile(join(dir, 'journal')))).toMatchObject({ newest: memoryOf(60) });
    // Full again, with nothing that is kept: the older record stands.
    await writeFile(join(dir, 'filler-2'), Buffer.alloc(16 * 1024 * 1024)).catch(() => undefined);
    const later = (await openJournal(dir)).journal;
    let number = 61;
    const appendAll = async (): Promise<void> => {
      for (; number <= 100; number += 1) await later.append(memoryOf(number));
    };
    await expect(appendAll()).rejects.toMatchObject({ code: 'ENOSPC' });
    expect((await openJournal(dir)).memory).toEqual(memoryOf(number - 1));
    await rm(join(dir, 'filler'));
    await appendAll();
    await later.close();
    expect((await openJournal(dir)).memory).toEqual(memoryOf(100));
  },
);
