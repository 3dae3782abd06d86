import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { runHooks } from '#agent/hooks.ts';
import type { Manifest } from '#shared/manifest.ts';

const run = async (hooks: Manifest['hooks'], deferUntil = 0) => {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-hooks-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  let clock = 0;
  const result = await runHooks({
    when: 'before-install',
    manifest: { hooks },
    folder,
    environment: { SLUICE_DEPLOYMENT: 'dep-1', SLUICE_VERSION: '1.2.0' },
    port: undefined,
    deferUntil,
    pause: async () => {
      clock += 1;
    },
    now: () => clock,
    signal: new AbortController().signal,
  });
  const output = await readFile(join(folder, 'out'), 'utf8').catch(() => '');
  return { result, output };
};
const shell = (script: string, timeoutMs = 10_000): Manifest['hooks'][number] => ({
  when: 'before-install',
  command: ['sh', '-c', script],
  timeoutMs,
});

test('hooks of this moment run in order, in their folder, and know what goes on', async () => {
  const other: Manifest['hooks'][number] = { ...shell('echo no >> out'), when: 'after-commit' };
  const { result, output } = await run([
    shell('echo $SLUICE_HOOK >> out'),
    other,
    shell('echo $SLUICE_DEPLOYMENT $SLUICE_VERSION >> out'),
  ]);
  expect([result, output]).toEqual([{ ok: true }, 'before-install\ndep-1 1.2.0\n']);
});

test('24: a hook exits 1, hangs, or says "later", each state: reverts, times out, defers (exits 1: the next one does not run)', async () => {
  const { result, output } = await run([shell('echo broken >&2; exit 1'), shell('echo no >> out')]);
  expect(result).toMatchObject({ ok: false, message: expect.stringContaining('broken') });
  expect(output).toBe('');
});

test('24: a hook exits 1, hangs, or says "later", each state: reverts, times out, defers (hangs)', async () => {
  expect((await run([shell('sleep 600', 50)])).result).toMatchObject({
    ok: false,
    message: expect.stringContaining('50 ms'),
  });
});

test('24: a hook exits 1, hangs, or says "later", each state: reverts, times out, defers ("later", but not for ever)', async () => {
  const patient = await run([shell('echo x >> out; [ $(wc -l < out) -ge 3 ] || exit 75')], 10);
  expect([patient.result, patient.output]).toEqual([{ ok: true }, 'x\nx\nx\n']);
  const never = await run([shell('echo x >> out; exit 75')], 2);
  expect([never.result.ok, never.output]).toEqual([false, 'x\nx\nx\n']);
});
