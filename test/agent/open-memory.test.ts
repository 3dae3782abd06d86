import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { Slots } from '#agent/domain/slots.ts';
import type { Log } from '#agent/log.ts';
import { openMemory } from '#agent/open-memory.ts';
import { mountDrives } from '#test/simulation/drive.ts';

const silent: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
/** Of a device that has never installed anything; nothing else is asked of it. */
const slots = {
  inspect: async () => ({
    ok: true,
    view: { active: null, trial: null, slots: { a: { state: 'unbootable' }, b: { state: 'unbootable' } } },
  }),
} as unknown as Slots;

const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-memory-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};
const damage = async (dir: string): Promise<void> => {
  const file = join(dir, 'journal');
  const bytes = await readFile(file);
  bytes[10]! ^= 1;
  await writeFile(file, bytes);
};

// Found by the simulation: a device that lost its journal while its clock was set back was acknowledged, and never
// heard again.
test('numbers of reports grow when the journal is lost and the clock was set back', async () => {
  const dir = await folder();
  const first = await openMemory(dir, slots, silent, () => 5_000_000);
  await first.journal.append({ ...first.memory, reportSeq: 5_001_000 });
  await first.journal.close();
  await damage(dir);
  const second = await openMemory(dir, slots, silent, () => 0);
  await second.journal.close();
  expect(second.memory.reportSeq).toBe(5_001_000);
});

test('numbers of reports grow when the file beside the journal is damaged: the journal knows them too', async () => {
  const dir = await folder();
  const first = await openMemory(dir, slots, silent, () => 7_000);
  await first.journal.append({ ...first.memory, reportSeq: 8_000 });
  await first.journal.close();
  await writeFile(join(dir, 'report-numbers.json'), 'torn');
  const second = await openMemory(dir, slots, silent, () => 0);
  await second.journal.append({ ...second.memory, reportSeq: 9_000 });
  await second.journal.close();
  expect(second.memory.reportSeq).toBe(8_000);
  await damage(dir);
  const third = await openMemory(dir, slots, silent, () => 0);
  await third.journal.close();
  expect(third.memory.reportSeq).toBe(9_000);
});

// Found by hand: the server acknowledged the reports of such a device as seen before, and kept nothing, not even its
// receipts.
test('numbers of reports grow when the data folder is put back from a backup', async () => {
  const dir = await folder();
  const first = await openMemory(dir, slots, silent, () => 5_000_000);
  await first.journal.close();
  const later = await openMemory(dir, slots, silent, () => 9_000_000);
  await later.journal.close();
  expect(later.memory.reportSeq).toBe(9_000_000);
  const setBack = await openMemory(dir, slots, silent, () => 0);
  await setBack.journal.close();
  expect(setBack.memory.reportSeq).toBe(5_000_000);
});

// Found by the simulation: the agent ended, and its application with it, for as long as the disk was full.
test('an agent without a journal starts on a full disk: it records as soon as there is room', async () => {
  const drives = mountDrives();
  onTestFinished(() => drives.unmount());
  const drive = drives.open('gw-1', { forgets: false });
  const dir = drive.folder;
  let isFull = true;
  drive.attach({
    process: { name: 'gw-1', dead: false },
    maybeCrash: () => false,
    isFull: () => isFull,
    latency: async () => {},
  });
  const first = await openMemory(dir, slots, silent, () => 5_000);
  expect(first.memory).toMatchObject({ install: { state: 'idle' }, reportSeq: 5_000 });
  await expect(first.journal.append(first.memory)).rejects.toThrow('ENOSPC');
  isFull = false;
  await first.journal.append({ ...first.memory, reportSeq: 6_000 });
  expect((await openMemory(dir, slots, silent, () => 0)).memory.reportSeq).toBe(6_000);
});
