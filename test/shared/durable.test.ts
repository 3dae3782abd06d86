import { mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { newFolder } from '../server/trust/throw-away.ts';

test('a file is replaced as a whole, with its mode, and nothing is left beside it', async () => {
  const dir = await newFolder();
  const file = join(dir, 'key.pem');
  await writeFileDurably(file, 'one', 0o600);
  await writeFileDurably(file, Buffer.from('two'), 0o600);
  expect(await readFile(file, 'utf8')).toBe('two');
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(await readdir(dir)).toEqual(['key.pem']);
});

test('when it fails, the old content stays and nothing is left beside it', async () => {
  const dir = await newFolder();
  await mkdir(join(dir, 'taken', 'inside'), { recursive: true });
  await expect(writeFileDurably(join(dir, 'taken'), 'x')).rejects.toThrow();
  await expect(writeFileDurably(join(dir, 'no', 'such'), 'x')).rejects.toThrow('ENOENT');
  expect(await readdir(dir)).toEqual(['taken']);
});

test('writing one file many times at once leaves one whole content', async () => {
  const file = join(await newFolder(), 'file');
  const contents = Array.from({ length: 20 }, (_, index) => String(index).repeat(5000));
  await Promise.all(contents.map((content) => writeFileDurably(file, content)));
  expect(contents).toContain(await readFile(file, 'utf8'));
});

test('a file that is not there is undefined; anything else that fails is an error', async () => {
  const dir = await newFolder();
  expect(await readFileIfThere(join(dir, 'none'))).toBeUndefined();
  await expect(readFileIfThere(dir)).rejects.toThrow('EISDIR');
});
