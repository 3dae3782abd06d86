import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, onTestFinished, test } from 'vitest';
import { runCommand } from '#agent/application/command.ts';
import { processesWithEnvironment } from '#agent/process/process-table.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { APPS, NEVER_WELL, openDevice, startTestServer, until } from '../harness.ts';
import { canBeUnkillable, UNKILLABLE, WITHOUT_KILL } from '../unkillable.ts';

const root = join(import.meta.dirname, '../../..');
const isUnkillable = await canBeUnkillable();
const SECONDS = String(600 + (process.pid % 100_000));
const STUCK = [...UNKILLABLE, SECONDS];

const killStuck = async (mark: string): Promise<void> => {
  for (const { pid } of await processesWithEnvironment('STUCK', mark)) process.kill(pid, 'SIGKILL');
};

/**
 * Runs this as a module by an agent's user that may not kill the stuck command; it says one line of JSON for each thing
 * that it finds.
 */
const withoutKill = (source: string) => {
  const [word, ...words] = [...WITHOUT_KILL, process.execPath, '--input-type=module', '-e', source];
  const child = spawn(word, words, { cwd: root, stdio: ['pipe', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    ended: once(child, 'exit'),
    said: async () => JSON.parse((await lines.next()).value as string) as unknown,
    goOn: () => void child.stdin.end('\n'),
  };
};

test.runIf(isUnkillable)(
  'a command that cannot be killed keeps its time limit; few of the same are left behind, and each is named once',
  async () => {
    const mark = `same-${process.pid}`;
    onTestFinished(() => killStuck(mark));
    const { said, ended, goOn } = withoutKill(`
      import { once } from 'node:events';
      import { leftBehind } from '#agent/process/bounded-child.ts';
      import { runCommand } from '#agent/application/command.ts';
      const left = [];
      leftBehind.on('left', ({ command }) => left.push(command));
      const run = (command, timeoutMs) => runCommand({ command, folder: '/', environment: { STUCK: '${mark}' }, timeoutMs });
      const stuck = ${JSON.stringify(STUCK)};
      // On a slow machine it may still be killable after so little: again, until it is not.
      const untilLeft = async () => {
        const before = left.length;
        let ran = await run(stuck, 50);
        while (left.length === before) ran = await run(stuck, 50);
        return ran;
      };
      for (let round = 0; round < 2; round += 1) console.log(JSON.stringify(await untilLeft()));
      console.log(JSON.stringify(await run(stuck, 50)));
      console.log(JSON.stringify([left, await run(['true'], 20_000)]));
      await once(process.stdin, 'data');
      console.log(JSON.stringify(await untilLeft()));
      // One that goes on by itself, in the group of a shell that is gone.
      console.log(JSON.stringify(await run(['sh', '-c', stuck.join(' ') + ' & until [ $(stat -c %u /proc/$!) = 65534 ]; do sleep 0.01; done'], 20_000)));
      console.log(JSON.stringify(left.length));
      process.stdin.destroy();
    `);
    expect(await said()).toMatchObject({ ok: false, message: 'setpriv did not end within 50 ms' });
    expect(await said()).toMatchObject({ ok: false, message: 'setpriv did not end within 50 ms' });
    expect(await said()).toMatchObject({ ok: false, message: expect.stringContaining('is not started again') });
    expect(await said()).toMatchObject([[STUCK.join(' '), STUCK.join(' ')], { ok: true }]);
    await killStuck(mark);
    await expect.poll(() => processesWithEnvironment('STUCK', mark)).toEqual([]);
    goOn();
    expect(await said()).toMatchObject({ message: 'setpriv did not end within 50 ms' });
    expect(await said()).toMatchObject({ ok: true });
    expect(await said()).toBe(4);
    // Nothing of this keeps the process.
    expect(await ended).toEqual([0, null]);
  },
);

test.runIf(isUnkillable)('a trial whose check cannot be killed fails at its deadline', async () => {
  const mark = `trial-${process.pid}`;
  onTestFinished(() => killStuck(mark));
  const { said } = withoutKill(`
    import { runTrialHealth } from '#agent/deployment/health.ts';
    import { HealthPolicy } from '#shared/manifest.ts';
    const check = { kind: 'command', command: ${JSON.stringify(STUCK)}, timeoutMs: 60_000 };
    console.log(JSON.stringify(await runTrialHealth({
      policy: HealthPolicy.parse({ checks: [check], deadlineMs: 500, intervalMs: 50 }),
      elapsedMs: 0,
      folder: '/',
      environment: { STUCK: '${mark}' },
      process: null,
      contact: () => ({ reach: 'broker' }),
      signal: new AbortController().signal,
    })));
  `);
  expect(await said()).toMatchObject({ verdict: 'failed', code: 'TRIAL_DEADLINE' });
});

test.runIf(isUnkillable)('a release that wedges its health hook is reverted, and the agent goes on', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const mark = join(device.dataDir, 'application');
  onTestFinished(async () => {
    for (const { pid } of await processesWithEnvironment('SLUICE_DATA', mark)) process.kill(pid, 'SIGKILL');
  });
  const agent = device.start(undefined, {}, WITHOUT_KILL);
  const outcomeOf = async (version: string) => {
    const find = () => server.state.receipts.find((receipt) => receipt.version === version);
    await until(`${version} is reported`, find, 60_000, () => agent.lines.map(({ msg }) => msg));
    return find();
  };
  server.desire((await server.publishRelease('1.0.0', APPS.good)).instruction);
  expect(await outcomeOf('1.0.0')).toMatchObject({ outcome: 'committed' });
  const hooks = [{ when: 'health' as const, command: STUCK, timeoutMs: 1_000 }];
  const health = { ...NEVER_WELL.health, checks: [], deadlineMs: 5_000 };
  server.desire((await server.publishRelease('1.1.0', APPS.good, { hooks, health })).instruction);
  expect(await outcomeOf('1.1.0')).toMatchObject({ outcome: 'reverted', running: { version: '1.0.0' } });
  expect(agent.lines.map(({ event }) => event)).toContain('process-left-behind');
  server.desire((await server.publishRelease('1.2.0', APPS.good)).instruction);
  expect(await outcomeOf('1.2.0')).toMatchObject({ outcome: 'committed' });
  expect(await agent.stop()).toEqual({ code: 0, signal: null });
});

test.runIf(isUnkillable && ALL_SWEEPS)(
  'an application that cannot be killed does not keep the next one from running',
  async () => {
    const dir = await mkdtemp(join(tmpdir(), 'sluice-stuck-'));
    onTestFinished(() => rm(dir, { recursive: true, force: true }));
    const mark = `application-${process.pid}`;
    onTestFinished(() => killStuck(mark));
    const { said, ended } = withoutKill(`
    import { openSupervisor } from '#agent/application/supervisor.ts';
    const supervisor = await openSupervisor({ dir: '${dir}', stopMs: 100 });
    const start = (command) =>
      supervisor.start({ slot: 'a', command, folder: '/', environment: { STUCK: '${mark}' }, onExit: 'report' });
    console.log(JSON.stringify(await start(${JSON.stringify(STUCK)})));
    const { pid } = supervisor.running();
    const { readFileSync } = process.getBuiltinModule('node:fs');
    while (!/^Uid:\\s+65534/m.test(readFileSync('/proc/' + pid + '/status', 'utf8'))) await new Promise(setImmediate);
    await supervisor.stop();
    console.log(JSON.stringify(await start(['sleep', '600'])));
    console.log(JSON.stringify(supervisor.running().pid !== pid));
    await supervisor.stop();
    process.exit(0);
  `);
    expect([await said(), await said(), await said()]).toEqual([{ ok: true }, { ok: true }, true]);
    expect(await ended).toEqual([0, null]);
  },
);

test('what a command leaves running has ended with it', async () => {
  const mark = `left-${process.pid}`;
  const command = ['sh', '-c', 'sleep 600 & sleep 600 & exit 3'];
  const result = await runCommand({ command, folder: '/', environment: { STUCK: mark }, timeoutMs: 60_000 });
  expect(result).toMatchObject({ ok: false, exitCode: 3 });
  expect(await processesWithEnvironment('STUCK', mark)).toEqual([]);
});
