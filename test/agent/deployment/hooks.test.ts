import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { runHooks } from '#agent/deployment/hooks.ts';
import type { HookRuns } from '#agent/domain/hook-runs.ts';
import type { Manifest } from '#shared/manifest.ts';

const run = async (hooks: Manifest['hooks'], deferUntil = 0, known: HookRuns = []) => {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-hooks-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  let clock = 0;
  const result = await runHooks({
    when: 'before-install',
    manifest: { hooks },
    folder,
    environment: { SLUICE_DEPLOYMENT: 'dep-1', SLUICE_VERSION: '1.2.0' },
    port: undefined,
    counts: {
      known: () => known,
      keep: async (change) => {
        known = change(known);
        return true;
      },
    },
    deferUntil,
    pause: async () => {
      clock += 1;
    },
    now: () => clock,
    signal: new AbortController().signal,
  });
  const output = await readFile(join(folder, 'out'), 'utf8').catch(() => '');
  return { result, output, known };
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

test('24: a hook exits 1, hangs, or says "later", each state: reverts, times out, defers ("later", but not forever)', async () => {
  const patient = await run([shell('echo x >> out; [ $(wc -l < out) -ge 3 ] || exit 75')], 10);
  expect([patient.result, patient.output]).toEqual([{ ok: true }, 'x\nx\nx\n']);
  const never = await run([shell('echo x >> out; exit 75')], 2);
  expect([never.result.ok, never.output]).toEqual([false, 'x\nx\nx\n']);
});

test('a hook whose end the agent did not see three times is not run again; one that has ended well is left out then', async () => {
  const script = shell('echo x >> out');
  const first = await run([script, script], 0, [{ hook: 1, runs: 2, good: false }]);
  expect(first).toMatchObject({
    result: { ok: true },
    output: 'x\nx\n',
    known: [
      { hook: 0, runs: 1, good: true },
      { hook: 1, runs: 3, good: true },
    ],
  });
  expect(await run([script, script], 0, first.known)).toMatchObject({ result: { ok: true }, output: 'x\n' });
  const refused = await run([script], 0, [{ hook: 0, runs: 3, good: false }]);
  expect(refused).toMatchObject({ result: { ok: false, message: /3 times/ }, output: '' });
});

test('a hook that asks for "later" may do so as often as it likes, also before each of many restarts', async () => {
  const later = shell('exit 75');
  let { known } = await run([later], 5);
  for (let restarts = 0; restarts < 5; restarts += 1) ({ known } = await run([later], 5, known));
  expect(known).toEqual([{ hook: 0, runs: 0, good: false }]);
});
