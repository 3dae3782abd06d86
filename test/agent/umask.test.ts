import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';

const run = promisify(execFile);

/** Makes a slot in the folder that it is given. A process of its own, since the umask is one of the whole process. */
const PROGRAM = `
import { Readable } from 'node:stream';
import { emptySlot } from '#agent/slots/content.ts';
import { slotFolder } from '#agent/slots/slot-record.ts';
import { openTreeWriter } from '#agent/disk/tree-writer.ts';
process.umask(0o077);
const dir = process.argv[1];
await emptySlot(dir, 'a');
const writer = openTreeWriter(slotFolder(dir, 'a'), { entriesMax: 9, bytesMax: 99 }, () => undefined);
await writer.folder('empty');
await writer.file('lib/deep/main.js', { bytes: 2, mode: 0o644 }, Readable.from([Buffer.from('ok')]));
await writer.finish();
`;

test("another user can run what is in a slot, whatever the agent's umask is", async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-umask-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  await run(process.execPath, ['--input-type=module-typescript', '-e', PROGRAM, dir], {
    cwd: join(import.meta.dirname, '../..'),
  });
  const modes: Record<string, string> = {};
  for (const path of ['', ...(await readdir(join(dir, 'a'), { recursive: true }))])
    modes[path] = ((await stat(join(dir, 'a', path))).mode & 0o777).toString(8);
  expect(modes).toEqual({ '': '755', empty: '755', lib: '755', 'lib/deep': '755', 'lib/deep/main.js': '644' });
});
