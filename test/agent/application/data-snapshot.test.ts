import { once } from 'node:events';
import { lstatSync, rmSync, symlinkSync } from 'node:fs';
import {
  chmod,
  link,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { openDataSnapshots, snapshotLimit } from '#agent/application/data-snapshot.ts';
import type { SlotsView } from '#agent/domain/slots.ts';

type View = Pick<SlotsView, 'active' | 'trial'>;
const TRIAL = { slot: 'b', deployment: 'dep-1' } as const;
const BEFORE: View = { active: 'a', trial: null };
const ON_TRIAL: View = { active: 'a', trial: { ...TRIAL, triesLeft: 2 } };
const COMMITTED: View = { active: 'b', trial: null };
const REVERTED = BEFORE;
const BYTES_MAX = 1024 ** 2;

const makeRoot = async (): Promise<{ root: string; data: string }> => {
  const root = await mkdtemp(join(tmpdir(), 'sluice-data-'));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  await mkdir(join(root, 'application'));
  return { root, data: join(root, 'application') };
};

/** All that can be seen of a folder: names, kinds, modes, times and contents. */
const see = async (root: string, path = ''): Promise<Record<string, unknown>> => {
  const stats = await lstat(join(root, path));
  const mode = (stats.mode & 0o7777).toString(8);
  if (stats.isSymbolicLink()) return { [path]: ['link', await readlink(join(root, path))] };
  if (stats.isFile())
    return { [path]: ['file', mode, stats.mtimeMs, (await readFile(join(root, path))).toString('hex')] };
  const inside = await Promise.all((await readdir(join(root, path))).map((name) => see(root, join(path, name))));
  return Object.assign({ [path]: ['folder', mode] }, ...inside) as Record<string, unknown>;
};

const fill = async (data: string): Promise<void> => {
  await mkdir(join(data, 'db/deep'), { recursive: true });
  await writeFile(join(data, 'db/deep/rows'), Buffer.from([0, 255, 10, 13]));
  await writeFile(join(data, 'secret'), 'x', { mode: 0o600 });
  await writeFile(join(data, 'run.sh'), '#!/bin/sh', { mode: 0o755 });
  await writeFile(join(data, 'empty'), '');
  await link(join(data, 'secret'), join(data, 'same-secret'));
  await symlink('db/deep/rows', join(data, 'rows'));
  await symlink('/nowhere', join(data, 'dangling'));
  await utimes(join(data, 'db/deep/rows'), 1_000_000, 1_000_000.5);
  await chmod(join(data, 'db'), 0o750);
};

test('a snapshot is the data as it was: contents, modes, times and links', async () => {
  const { root, data } = await makeRoot();
  await fill(data);
  const before = await see(data);
  const snapshots = openDataSnapshots(root);
  expect(await snapshots.take(TRIAL, BYTES_MAX)).toEqual({ ok: true });
  expect(await see(join(root, 'application.snapshot-b-dep-1'))).toEqual(before);
  const [one, two] = await Promise.all(
    ['secret', 'same-secret'].map((name) => lstat(join(root, 'application.snapshot-b-dep-1', name))),
  );
  expect(one!.ino).toBe(two!.ino);
  expect(one!.ino).not.toBe((await lstat(join(data, 'secret'))).ino);
});

test('after a revert the data is what it was, after a commit what the new version made; nothing else is left', async () => {
  for (const [view, expected] of [
    [REVERTED, 'old'],
    [COMMITTED, 'new'],
  ] as const) {
    const { root, data } = await makeRoot();
    await fill(data);
    await writeFile(join(data, 'version'), 'old');
    const snapshots = openDataSnapshots(root);
    await snapshots.take(TRIAL, BYTES_MAX);
    await rm(join(data, 'db'), { recursive: true });
    await writeFile(join(data, 'version'), 'new');
    // As long as it is on trial nothing is decided, however often the agent starts.
    expect(await snapshots.settle(ON_TRIAL)).toEqual({ ok: true });
    expect(await readFile(join(data, 'version'), 'utf8')).toBe('new');
    expect(await snapshots.settle(view)).toEqual({ ok: true });
    expect(await readFile(join(data, 'version'), 'utf8')).toBe(expected);
    expect(await readdir(root)).toEqual(['application']);
  }
});

test('what is too large, or no file, is refused before anything is activated, and leaves no snapshot', async () => {
  const { root, data } = await makeRoot();
  await writeFile(join(data, 'big'), Buffer.alloc(2_000));
  const snapshots = openDataSnapshots(root);
  expect(await snapshots.check(1_999)).toMatchObject({ ok: false, code: 'NO_SPACE', message: /more than 1999 bytes/ });
  expect(await snapshots.check(2_000)).toEqual({ ok: true });
  expect(await snapshots.take(TRIAL, 1_999)).toMatchObject({ ok: false, code: 'NO_SPACE' });
  expect((await readdir(root)).filter((name) => name.includes('snapshot'))).toEqual([]);
  // A disk that is too full, unless the copies share their blocks with the originals.
  await writeFile(join(data, 'huge'), '');
  const { truncate } = await import('node:fs/promises');
  await truncate(join(data, 'huge'), 2 ** 43);
  const full = openDataSnapshots(root, undefined, async () => false);
  expect(await full.check(2 ** 44)).toMatchObject({ ok: false, code: 'NO_SPACE', message: /are free/ });
  expect(await openDataSnapshots(root, undefined, async () => true).check(2 ** 44)).toEqual({ ok: true });
});

test('a socket that is left over is not worth keeping; a folder that is a link cannot be put back', async () => {
  const { root, data } = await makeRoot();
  const server = createServer().listen(join(data, 'control'));
  await once(server, 'listening');
  const snapshots = openDataSnapshots(root);
  expect(await snapshots.take(TRIAL, BYTES_MAX)).toEqual({ ok: true });
  expect(await readdir(join(root, 'application.snapshot-b-dep-1'))).toEqual([]);
  server.close();
  await rm(data, { recursive: true });
  await symlink('/tmp', data);
  expect(await snapshots.check(BYTES_MAX)).toMatchObject({ ok: false, code: 'PRECONDITION', message: /plain folder/ });
});

test('a process that puts a link in place of a folder while it is copied gets nothing copied from elsewhere', async () => {
  const { root, data } = await makeRoot();
  const outside = await mkdtemp(join(tmpdir(), 'sluice-outside-'));
  onTestFinished(() => rm(outside, { recursive: true, force: true }));
  await writeFile(join(outside, 'shadow'), 'of others');
  await mkdir(join(data, 'db'));
  await writeFile(join(data, 'db', 'rows'), 'own');
  let copied = 0;
  const snapshots = openDataSnapshots(root, (name) => {
    if (name === 'data.copying') copied += 1;
    // The folder itself, and then the one in it.
    if (copied !== 2 || !lstatSync(join(data, 'db')).isDirectory()) return;
    rmSync(join(data, 'db'), { recursive: true });
    symlinkSync(outside, join(data, 'db'));
  });
  expect(await snapshots.take(TRIAL, BYTES_MAX)).toMatchObject({
    ok: false,
    code: 'PRECONDITION',
    message: expect.stringContaining('it changes while it is copied'),
  });
  expect(JSON.stringify(await see(root))).not.toContain(Buffer.from('of others').toString('hex'));
});

test('a snapshot that no one settled is never overwritten', async () => {
  const { root } = await makeRoot();
  const snapshots = openDataSnapshots(root);
  await snapshots.take(TRIAL, BYTES_MAX);
  expect(await snapshots.take({ slot: 'b', deployment: 'dep-2' }, BYTES_MAX)).toMatchObject({
    ok: false,
    code: 'PRECONDITION',
    message: /dep-1 has not been settled/,
  });
});

test('the device decides before the release, and the smaller limit holds', () => {
  const limit = (data: object | undefined, device: object) =>
    snapshotLimit({ data: data as never }, { data: { bytesMax: 100, ...device } });
  expect(limit(undefined, {})).toBeNull();
  expect(limit({ snapshot: true }, {})).toEqual({ bytesMax: 100 });
  expect(limit({ snapshot: true, bytesMax: 50 }, {})).toEqual({ bytesMax: 50 });
  expect(limit({ snapshot: true, bytesMax: 500 }, {})).toEqual({ bytesMax: 100 });
  expect(limit({ snapshot: true }, { snapshot: false })).toBeNull();
  expect(limit(undefined, { snapshot: true })).toEqual({ bytesMax: 100 });
});

class PowerCut extends Error {}

/**
 * A life of one trial, in which the power is cut at the durable steps with these numbers, each counted from the last.
 */
const live = async (root: string, outcome: 'commit' | 'revert', cuts: number[], files: [string, string][]) => {
  const data = join(root, 'application');
  for (const [name, content] of files) await writeFile(join(data, name), content);
  const [before, pending] = [await see(data), [...cuts]];
  let steps = 0;
  const open = () =>
    openDataSnapshots(root, () => {
      steps += 1;
      if (steps !== pending[0]) return;
      pending.shift();
      steps = 0;
      throw new PowerCut();
    });
  /** What the agent does at every start, again until the power stays. */
  const insist = async (act: (snapshots: ReturnType<typeof open>) => Promise<unknown>): Promise<void> => {
    for (;;) {
      try {
        return void (await act(open()));
      } catch (error) {
        if (!(error instanceof PowerCut)) throw error;
      }
    }
  };
  // Activation: settles, takes, and only then is the selector written.
  await insist(async (snapshots) => {
    expect(await snapshots.settle(BEFORE)).toEqual({ ok: true });
    expect(await snapshots.take(TRIAL, BYTES_MAX)).toEqual({ ok: true });
  });
  for (const [name] of files.slice(1)) await rm(join(data, name));
  await writeFile(join(data, 'made-by-the-new-version'), 'new');
  const after = await see(data);
  await insist(async (snapshots) => expect(await snapshots.settle(ON_TRIAL)).toEqual({ ok: true }));
  expect(await see(data)).toEqual(after);
  await insist(async (snapshots) =>
    expect(await snapshots.settle(outcome === 'commit' ? COMMITTED : REVERTED)).toEqual({ ok: true }),
  );
  return { is: await see(data), should: outcome === 'commit' ? after : before };
};

test('whenever the power is cut, data is what it was before a reverted trial, and what a committed one made', async () => {
  const name = fc.stringMatching(/^[a-z]{1,4}$/);
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('commit' as const, 'revert' as const),
      fc.array(fc.integer({ min: 1, max: 12 }), { maxLength: 6 }),
      fc.uniqueArray(fc.tuple(name, fc.string()), { maxLength: 4, selector: ([one]) => one }),
      async (outcome, cuts, files) => {
        const root = await mkdtemp(join(tmpdir(), 'sluice-data-'));
        try {
          await mkdir(join(root, 'application'));
          const { is, should } = await live(root, outcome, cuts, files);
          expect(is).toEqual(should);
          expect(await readdir(root)).toEqual(['application']);
        } finally {
          await rm(root, { recursive: true, force: true });
        }
      },
    ),
    { numRuns: 80 },
  );
});
