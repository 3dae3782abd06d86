/** The end-to-end test: the demo as a newcomer runs it, with real processes. */
import { spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, readlink, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const DEMO_MS_MAX = 400_000;
let temporary: string;
beforeAll(async () => {
  temporary = await mkdtemp(join(tmpdir(), 'sluice-demo-test-'));
});
afterAll(() => rm(temporary, { recursive: true, force: true }));

type Ended = { code: number | null; out: string; all: string };
const run = (
  command: string,
  arguments_: string[],
  onOutput: (all: string, interrupt: () => void) => void = () => {},
) =>
  new Promise<Ended>((resolve, reject) => {
    const child = spawn(command, arguments_, { cwd: ROOT, env: { ...process.env, TMPDIR: temporary, CI: '' } });
    let out = '';
    let all = '';
    const take = (chunk: Buffer): void => {
      all += chunk.toString();
      onOutput(all, () => child.kill('SIGINT'));
    };
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, out, all }));
  });

/**
 * Folders of the demo (npm keeps a cache of its own beside them), and processes that work in the demo's folder or were
 * told of it; of this user, where the system shows them.
 */
const leftovers = async (): Promise<string[]> => {
  const found = (await readdir(temporary)).filter((name) => name.startsWith('sluice-'));
  for (const pid of await readdir('/proc').catch(() => [])) {
    if (!/^\d+$/.test(pid)) continue;
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => '');
    if (line.includes(temporary) || cwd.startsWith(temporary)) found.push(line.replaceAll('\0', ' '));
  }
  return found;
};

test(
  'a good release reaches everyone, a bad one stops by itself, and the log proves it',
  async () => {
    const demo = await run('npm', ['run', 'demo', '--', '--json']);
    expect({ code: demo.code, all: demo.all }).toMatchObject({ code: 0 });
    expect(JSON.parse(demo.out.trimEnd().split('\n').at(-1)!)).toEqual({
      rollouts: [
        {
          release: 'gateway@1.0.0',
          state: 'completed',
          devices: 8,
          committed: 8,
          reverted: 0,
          failed: 0,
          overdue: 0,
          untouched: 0,
        },
        {
          release: 'gateway@1.2.0',
          state: 'halted',
          devices: 8,
          committed: 0,
          reverted: 2,
          failed: 0,
          overdue: 0,
          untouched: 6,
        },
      ],
      audit: { entries: expect.any(Number), verified: true },
    });
    // Every device says so itself: what it committed, and the canaries that they went back.
    for (const device of ['gw-01', 'gw-02']) {
      expect(demo.out).toContain(`${device}  committed gateway@1.0.0, then reverted gateway@1.2.0\n`);
    }
    for (const device of ['gw-03', 'gw-04', 'gw-05', 'gw-06', 'gw-07', 'gw-08']) {
      expect(demo.out).toContain(`${device}  committed gateway@1.0.0\n`);
    }
    expect(await leftovers()).toEqual([]);
  },
  DEMO_MS_MAX,
);

test(
  'a demo that is interrupted leaves nothing behind',
  async () => {
    let interrupted = false;
    const demo = await run(process.execPath, [join(ROOT, 'cli/sluice.ts'), 'demo'], (all, interrupt) => {
      if (interrupted || !all.includes('Eight devices start')) return;
      interrupted = true;
      interrupt();
    });
    expect({ code: demo.code, all: demo.all }).toMatchObject({ code: 130 });
    expect(await leftovers()).toEqual([]);
  },
  DEMO_MS_MAX,
);
