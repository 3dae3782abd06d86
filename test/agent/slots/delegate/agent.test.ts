/**
 * Real agents with a microcontroller behind an installer: committed, reverted, and killed while the installer is at
 * work.
 */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import type { Status } from '#agent/local/status-file.ts';
import {
  openDevice,
  type Published,
  type RunningAgent,
  startTestServer,
  type TestServer,
  until,
} from '#test/agent/harness.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { mcu } from './mcu.ts';

const DEADLINE_MS = 60_000;
vi.setConfig({ testTimeout: 5 * DEADLINE_MS });

const publish = (server: TestServer, version: string, well: boolean): Promise<Published> => {
  const firmware = Buffer.alloc(300_000, `firmware ${version} `);
  const install = { kind: 'delegate' as const, handler: 'mcu' };
  return server.publishRelease(version, '', {
    artifacts: [{ name: 'firmware', bytes: firmware.length, sha256: server.addObject(firmware), install }],
    run: undefined,
    health: {
      checks: well ? [] : [{ kind: 'command', command: ['false'] }],
      soakMs: 200,
      // Long enough for a check to have failed when it is over.
      deadlineMs: well ? DEADLINE_MS : 6_000,
      intervalMs: 50,
    },
  });
};

const outcomeOf = async (server: TestServer, { instruction }: Published, agent: RunningAgent) => {
  const receipt = () => server.state.receipts.find((one) => one.deployment === instruction.deployment);
  const isOver = () => receipt() !== undefined && server.state.reports.at(-1)?.deployment === null;
  const facts = () => [agent.lines.slice(-15).map(({ msg }) => msg), agent.errorOutput()];
  await until('the deployment is over', isOver, DEADLINE_MS, facts);
  return { outcome: receipt()!.outcome, error: receipt()!.error?.code, running: server.state.reports.at(-1)!.running };
};

test('a good version is committed on the target, and one that is not well goes back to it, both by receipt', async () => {
  const server = await startTestServer();
  const target = await mcu();
  const device = await openDevice(server, { slots: target.asAgent });
  const agent = device.start();
  const good = await publish(server, '1.1.0', true);
  server.desire(good.instruction);
  const running = { version: '1.1.0', slot: 'b', manifest: good.instruction.sha256 };
  expect(await outcomeOf(server, good, agent)).toMatchObject({ outcome: 'committed', error: undefined, running });
  expect([await target.get('active'), await target.get('running')]).toEqual(['b', 'b']);
  expect(agent.lines.some(({ msg }) => msg === 'the installer is at 100%')).toBe(true);

  const bad = await publish(server, '1.2.0', false);
  server.desire(bad.instruction);
  expect(await outcomeOf(server, bad, agent)).toMatchObject({ outcome: 'reverted', error: 'SELFTEST_FAILED', running });
  expect([await target.get('active'), await target.get('running')]).toEqual(['b', 'b']);
});

test.runIf(ALL_SWEEPS)('an agent that is killed while the installer works installs it again, once', async () => {
  const server = await startTestServer();
  const target = await mcu();
  const device = await openDevice(server, { slots: target.asAgent });
  const agent = device.start();
  const hang = 'echo "progress 50"; touch "$MCU.hangs"; sleep 86425';
  await target.before('install', hang);
  const good = await publish(server, '1.1.0', true);
  server.desire(good.instruction);
  const hangs = () => target.exists('hangs');
  await until('the installer works', hangs, DEADLINE_MS, () => agent.lines.slice(-15).map(({ msg }) => msg));
  agent.kill();
  await agent.ended;
  await until('the broker has noticed', server.nobodyIsConnected);
  await target.before('install', 'echo "progress 40"; until [ -e "$MCU.goes" ]; do sleep 0.1; done');
  const next = device.start();
  // Meanwhile the server, and local programs, see how far it has got.
  const verified = () =>
    server.state.reports.findLast(({ deployment }) => deployment?.state === 'verified')?.deployment;
  const has40 = () => verified()?.bytesDone === 120_000 && verified()?.bytesTotal === 300_000;
  await until('its progress is reported', has40, DEADLINE_MS, () => verified());
  const shown = async () => JSON.parse(await readFile(join(device.dataDir, 'status.json'), 'utf8')) as Status;
  await until('its progress is shown', async () => (await shown()).progress?.bytesDone === 120_000);
  expect(await shown()).toMatchObject({ progress: { bytesDone: 120_000, bytesTotal: 300_000 } });
  await target.put('../mcu.goes', '');
  expect(await outcomeOf(server, good, next)).toMatchObject({ outcome: 'committed', running: { version: '1.1.0' } });
  expect((await target.asked()).filter((words) => words === 'install b')).toHaveLength(2);
});
