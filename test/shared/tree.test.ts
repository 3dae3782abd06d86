import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { openTreeWriter } from '#agent/disk/tree-writer.ts';
import { unpackTree } from '#agent/disk/unpack.ts';
import { writeTree } from '#shared/tree.ts';
import { linkFault, pathFault } from '#shared/tree-path.ts';

const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-tree-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};

/** A folder as `npm install` leaves it. */
const application = async (): Promise<{ dir: string; tree: string }> => {
  const dir = await folder();
  const tree = join(dir, 'app');
  await mkdir(join(tree, 'node_modules/.bin'), { recursive: true });
  await mkdir(join(tree, 'node_modules/pkg'));
  await writeFile(join(tree, 'node_modules/pkg/cli.js'), 'run', { mode: 0o755 });
  await symlink('../pkg/cli.js', join(tree, 'node_modules/.bin/pkg'));
  return { dir, tree };
};

test('the links of an npm installation arrive as they are', async () => {
  const { dir, tree } = await application();
  expect(await writeTree(tree, 'zstd', join(dir, 'tar'))).toEqual({ ok: true, value: undefined });
  const slot = join(dir, 'slot');
  await mkdir(slot);
  const writer = openTreeWriter(slot, { entriesMax: 100, bytesMax: 1_000_000 }, () => undefined);
  expect(await unpackTree(createReadStream(join(dir, 'tar')), 'zstd', { tarBytesMax: 1_000_000 }, writer)).toEqual({
    ok: true,
  });
  await writer.finish();
  expect(await readlink(join(slot, 'node_modules/.bin/pkg'))).toBe('../pkg/cli.js');
});

const LINKS: Record<string, [to: string, why: string]> = {
  'an absolute link': ['/etc/passwd', 'is absolute'],
  'a link that leaves the folder': ['../../../../etc', 'leaves the tree'],
  'a link that goes down and up again': ['../pkg/../other', '".." after a name'],
  'a link with a backslash': ['..\\pkg', 'backslash'],
};
for (const [what, [to, why]] of Object.entries(LINKS)) {
  test(`${what} is refused when the bundle is made, with its path`, async () => {
    const { dir, tree } = await application();
    await symlink(to, join(tree, 'node_modules/.bin/bad'));
    const written = await writeTree(tree, 'none', join(dir, 'tar'));
    expect(written).toMatchObject({ ok: false, code: 'bundle-invalid' });
    expect(written).toMatchObject({ detail: expect.stringContaining('node_modules/.bin/bad ->') });
    expect(written).toMatchObject({ detail: expect.stringContaining(why) });
  });
}

const NAMES: Record<string, string | Buffer> = {
  'a backslash': 'a\\b',
  'a control character': 'a\tb',
  'bytes that are not UTF-8': Buffer.from([0x61, 0xff]),
};
for (const [what, name] of Object.entries(NAMES)) {
  test(`a name with ${what} is refused when the bundle is made`, async () => {
    const { dir, tree } = await application();
    await writeFile(Buffer.concat([Buffer.from(`${tree}/`), Buffer.from(name)]), 'x');
    const written = await writeTree(tree, 'none', join(dir, 'tar'));
    expect(written).toMatchObject({ ok: false, detail: expect.stringContaining('devices refuse the path') });
  });
}

test('a link that is allowed never leads above the root, wherever its folder lies', () => {
  const part = fc.constantFrom('..', '.', 'a', 'b', '');
  const names = fc.array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(names, fc.array(part, { minLength: 1, maxLength: 6 }), (path, to) => {
      if (pathFault(path.join('/')) !== undefined || linkFault(path.join('/'), to.join('/')) !== undefined) return;
      let depth = path.length - 1;
      for (const step of to) {
        if (step === '..') depth -= 1;
        else if (step !== '.' && step !== '') depth += 1;
        expect(depth).toBeGreaterThanOrEqual(0);
      }
    }),
  );
});
