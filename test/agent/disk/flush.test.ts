import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { flushTree } from '#agent/disk/flush.ts';

const tree = async (files: number): Promise<{ root: string; paths: string[] }> => {
  const root = await mkdtemp(join(tmpdir(), 'sluice-flush-'));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  const paths = Array.from({ length: files }, (_, index) => `file-${index}`);
  for (const path of paths) await writeFile(join(root, path), 'x');
  return { root, paths: [...paths, ''] };
};

/** Answers as told, and notes what it was asked. */
const syncThat = async (root: string, exitCode: number): Promise<{ command: string; asked: () => Promise<string> }> => {
  const command = join(root, 'sync');
  await writeFile(command, `#!/bin/sh\necho "$@" >> "$0.asked"\nexit ${exitCode}\n`);
  await chmod(command, 0o755);
  return { command, asked: () => readFile(`${command}.asked`, 'utf8').catch(() => '') };
};

test('many files are flushed with their file system, at once', async () => {
  const { root, paths } = await tree(100);
  const { command, asked } = await syncThat(root, 0);
  // Were they flushed one by one, the one that is not there would show.
  await flushTree(root, [...paths, 'missing'], command);
  expect(await asked()).toBe(`-f ${root}\n`);
  await flushTree(root, paths);
});

test('few files are flushed one by one', async () => {
  const { root, paths } = await tree(3);
  const { command, asked } = await syncThat(root, 0);
  await flushTree(root, paths, command);
  expect(await asked()).toBe('');
  await expect(flushTree(root, ['missing'], command)).rejects.toThrow('ENOENT');
});

test('where the file system cannot be flushed at once, many files are flushed one by one', async () => {
  const { root, paths } = await tree(100);
  const { command, asked } = await syncThat(root, 1);
  await flushTree(root, paths, command);
  expect(await asked()).toBe(`-f ${root}\n`);
  await flushTree(root, paths, join(root, 'not-there'));
  await expect(flushTree(root, [...paths, 'missing'], command)).rejects.toThrow('ENOENT');
});
