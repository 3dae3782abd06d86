import { type ChildProcess, fork } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { admit, ask, connectDevice, type Device, newFolder, removeFolder, reportAndWait, until } from './running.ts';

const SLUICE = join(import.meta.dirname, '..', '..', 'server', 'main.ts');
const Ready = z.object({ httpUrl: z.string(), mqttUrl: z.string() });
let dir: string;
let children: ChildProcess[];

beforeEach(async () => {
  dir = await newFolder();
  children = [];
});
afterEach(async () => {
  for (const child of children) await end(child, 'SIGKILL');
  await removeFolder(dir);
});

const end = async (child: ChildProcess, signal: NodeJS.Signals): Promise<number | NodeJS.Signals | null> => {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode ?? child.signalCode;
  const ended = new Promise<number | NodeJS.Signals | null>((resolve) =>
    child.once('exit', (code, by) => resolve(code ?? by)),
  );
  child.kill(signal);
  return ended;
};

/** A server of its own process, as a service manager runs it; ready when its log says so. */
const run = async (): Promise<{ child: ChildProcess; httpUrl: string; mqttUrl: string }> => {
  const child = fork(SLUICE, ['--data-dir', dir, '--http-port', '0', '--mqtt-port', '0'], {
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  children.push(child);
  let out = '';
  let words = '';
  child.stderr?.on('data', (chunk: Buffer) => (words += chunk.toString()));
  const ready = await new Promise<z.infer<typeof Ready>>((resolve, reject) => {
    child.stdout?.on('data', (chunk: Buffer) => {
      out += chunk.toString();
      const line = out.split('\n').find((one) => one.includes('"server-started"'));
      if (line?.endsWith('}') === true) resolve(Ready.parse(JSON.parse(line)));
    });
    // Not `exit`: what it said last may still be in the pipe then.
    child.once('close', (code) => reject(new Error(`ended with ${code}: ${words}`)));
  });
  return { child, ...ready };
};

test('what was acknowledged before the power went is there afterwards', async () => {
  const before = await run();
  const token = (await readFile(join(dir, 'admin-token'), 'utf8')).trim();
  const devices: Device[] = [];
  for (const name of ['gw-1', 'gw-2', 'gw-3']) devices.push(await admit(before.httpUrl, token, name));
  const acknowledged = new Map<string, number>();
  const reporting = devices.map(async (device) => {
    const client = await connectDevice(before.mqttUrl, device);
    client.on('error', () => undefined);
    try {
      for (let seq = 1; ; seq++) acknowledged.set(device.id, (await reportAndWait(client, device, seq)).seq);
    } catch {
      // The server is gone.
    } finally {
      await client.endAsync(true);
    }
  });
  // Of each device some reports: one that was saved, and whose acknowledgement was lost, would be seen before as well.
  const isBusy = ({ id }: Device): boolean => (acknowledged.get(id) ?? 0) >= 5;
  await until(() => devices.every(isBusy), 'five acknowledgements for each');
  expect(await end(before.child, 'SIGKILL')).toBe('SIGKILL');
  await Promise.all(reporting);

  const after = await run();
  for (const device of devices) {
    const client = await connectDevice(after.mqttUrl, device);
    const seq = acknowledged.get(device.id)!;
    // A report that was acknowledged is answered as seen.
    expect(await reportAndWait(client, device, seq)).toMatchObject({ seq });
    await client.endAsync(true);
  }
  const { items } = await ask(after.httpUrl, token, 'GET', '/api/v1/devices');
  expect(items.map(({ id, agent }: { id: string; agent: string }) => [id, agent])).toEqual(
    devices.map(({ id }) => [id, '1.0.0']),
  );
  const metrics = await fetch(`${after.httpUrl}/metrics`, { headers: { authorization: `Bearer ${token}` } });
  expect(await metrics.text()).toContain('sluice_messages_total{kind="state",outcome="seen"} 3\n');
});

test('SIGTERM ends it in order, and a second server says who holds the data folder', async () => {
  const one = await run();
  await expect(run()).rejects.toThrow(new RegExp(`ended with 1: .*process ${one.child.pid}`));
  expect(await end(one.child, 'SIGTERM')).toBe(0);
});

test('--print-config shows what all sources together give, --help every setting, and nonsense is refused', async () => {
  const printed = await output(['--print-config', '--http-port', '7', '--data-dir', dir]);
  expect(printed.code).toBe(0);
  expect(JSON.parse(printed.out)).toMatchObject({ dataDir: dir, http: { port: 7 } });
  expect((await output(['--help'])).err).toContain('--mqtt-public-url');
  expect(await output(['--http-port', 'x'])).toMatchObject({ code: 2, err: expect.stringContaining('--http-port') });
  expect(await output(['--nonsense'])).toMatchObject({ code: 2, err: expect.stringContaining('--nonsense') });
});

const output = (args: string[]): Promise<{ code: number | null; out: string; err: string }> =>
  new Promise((resolve) => {
    const child = fork(SLUICE, args, { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
    children.push(child);
    let [out, err] = ['', ''];
    child.stdout?.on('data', (chunk: Buffer) => (out += chunk.toString()));
    child.stderr?.on('data', (chunk: Buffer) => (err += chunk.toString()));
    child.once('close', (code) => resolve({ code, out, err }));
  });
