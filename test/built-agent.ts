/**
 * The agent as the one file that devices get, made before the tests when it is older than its sources: some tests start
 * dozens of agents, and a single file starts in a third of the time that its modules take.
 */
import { execFile } from 'node:child_process';
import { readdir, rename, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  interface ProvidedContext {
    /** The built agent; `node agentFile --help`. */
    agentFile: string;
  }
}

const root = join(import.meta.dirname, '..');
const SOURCES = ['agent', 'shared', 'package-lock.json', 'rolldown.config.ts'];

export const setup = async (project: TestProject): Promise<void> => {
  const file = join(root, 'node_modules', '.cache', 'sluice-test', 'agent.mjs');
  const builtAt = await stat(file)
    .then(({ mtimeMs }) => mtimeMs)
    .catch(() => 0);
  if ((await newestChange()) >= builtAt) await build(file);
  project.provide('agentFile', file);
};

const newestChange = async (): Promise<number> => {
  const listed = await Promise.all(
    SOURCES.map(async (source) => {
      const below = source.includes('.') ? [] : await readdir(join(root, source), { recursive: true });
      return [source, ...below.map((path) => join(source, path))];
    }),
  );
  const changes = await Promise.all(listed.flat().map(async (path) => (await stat(join(root, path))).mtimeMs));
  return Math.max(...changes);
};

/** Replaced whole: another run of tests may be using the one before. */
const build = async (file: string): Promise<void> => {
  const startedAt = new Date();
  const temporary = `${file}.${process.pid}`;
  const rolldown = join(root, 'node_modules', 'rolldown', 'bin', 'cli.mjs');
  const env = { ...process.env, SLUICE_AGENT_FILE: temporary };
  await promisify(execFile)(process.execPath, [rolldown, '-c', 'rolldown.config.ts'], { cwd: root, env });
  // What changed since may not be in it.
  await utimes(temporary, startedAt, startedAt);
  await rename(temporary, file);
};
