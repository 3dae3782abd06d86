import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { performCheck } from '#agent/application/checks.ts';
import { runCommand } from '#agent/application/command.ts';
import { openSupervisor } from '#agent/application/supervisor.ts';
import { openServiceManager } from '#agent/local/service-manager.ts';
import { startChild } from '#agent/process/start-child.ts';
import { runInstaller } from '#agent/slots/delegate/run-installer.ts';
import { runTool } from '#agent/slots/selectors/run-tool.ts';
import { SelectorFailed } from '#agent/slots/selectors/selector.ts';

/** `spawn` throws for these before there is a process: the kernel takes 128 KiB of one word (E2BIG). */
const IMPOSSIBLE = [
  ['a word too long for the system', 'x'.repeat(200_000)],
  ['a NUL in a word', 'x\0y'],
] as const;

const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-start-child-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};
const signal = new AbortController().signal;

test.each(IMPOSSIBLE)('%s is a failed start, and nothing is thrown', async (_, word) => {
  const dir = await folder();
  expect(startChild('true', [word], {})).toMatchObject({ ok: false });
  expect(await runCommand({ command: ['true', word], folder: dir, timeoutMs: 60_000 })).toMatchObject({
    ok: false,
    message: expect.stringContaining('true cannot be run: E'),
  });
  expect(
    await performCheck(
      { kind: 'command', command: ['true', word], timeoutMs: 60_000 },
      { folder: dir, process: null },
      signal,
    ),
  ).toMatchObject({ ok: false });
  const run = { command: ['true'], words: [word], dir, environment: {}, timeoutMs: 60_000 };
  expect(await runInstaller(run)).toMatchObject({ exitCode: null, why: expect.stringContaining('cannot be run: E') });
  await expect(runTool('true', [word])).rejects.toThrow(SelectorFailed);
});

test('an application that the system does not start is started as soon as it does', async () => {
  let value: string = 'x'.repeat(200_000);
  const supervisor = await openSupervisor({
    dir: await folder(),
    stopMs: 1_000,
    backoffMs: { first: 10, max: 50 },
    environment: async () => ({ ok: true, values: { VALUE: value } }),
  });
  onTestFinished(() => supervisor.stop());
  const application = {
    slot: 'a',
    command: ['sleep', '1000'],
    folder: '/',
    environment: {},
    onExit: 'restart',
  } as const;
  expect(await supervisor.start({ ...application, command: [...application.command] })).toMatchObject({
    ok: false,
    message: expect.stringContaining('E2BIG'),
  });
  value = 'short';
  await expect.poll(() => supervisor.running()).not.toBeNull();
});

test('a word for systemd that cannot be sent does not keep the next one back', async () => {
  const warned: string[] = [];
  const log = pino({ level: 'warn' }, { write: (line: string) => void warned.push(line) });
  const manager = openServiceManager({
    env: { NOTIFY_SOCKET: '/nowhere' },
    writingMs: () => 0,
    served: async () => undefined,
    log,
  });
  manager.says('a\0b');
  await manager.stopping();
  expect(warned).toHaveLength(1);
});

test('an address that is none once the port is in it fails its check, not the agent', async () => {
  const check = { kind: 'http', url: 'http://300.1.1.1:{port}/health', statusMax: 299, timeoutMs: 1_000 } as const;
  expect(await performCheck(check, { folder: '/', port: 80, process: null }, signal)).toEqual({
    ok: false,
    message: expect.stringContaining('Invalid URL'),
  });
});
