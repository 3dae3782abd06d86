/**
 * The order of an agent's writes, by the word of the system: the last durable one before a reboot, or before what
 * starts on trial, is the activation.
 */

import { spawnSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { swept } from '#test/sweep.ts';
import { APPS, openDevice, startTestServer, until } from './harness.ts';
import { bootImageDevice, publishImage } from './slots/image-device.ts';
import { grubRig, hasTool, OWN_ACCESS, ubootRig } from './slots/selectors/rigs.ts';

const DEADLINE_MS = 240_000;
const LONG = { timeout: 3 * DEADLINE_MS };
const hasStrace = spawnSync('strace', ['-V']).status === 0;
const CALLS = 'fsync,fdatasync,syncfs,rename,renameat,renameat2,unlink,unlinkat,execve';

/** `-D`: the agent stays the process that was started. */
const under = (trace: string): string[] => [
  'strace',
  '-D',
  '-f',
  '-qq',
  '-y',
  '-s',
  '300',
  '-A',
  '-o',
  trace,
  '-e',
  `trace=${CALLS}`,
];
const callsOf = async (trace: string): Promise<string[]> => {
  const text = await readFile(trace, 'utf8').catch(() => '');
  return text.split('\n').filter((line) => !/= -1|resumed>|= \?$/.test(line));
};
/** Of `status.json` no write is: it is about now alone, is not flushed, and comes beside whatever else goes on. */
const durableBefore = (calls: string[], at: number): string[] =>
  calls.slice(0, at).filter((line) => /sync|rename/.test(line) && !line.includes('/status.json'));

test.skipIf(!hasStrace)(
  'directories: the last durable write before the application starts on trial is the boot selector (strace must be installed)',
  LONG,
  async () => {
    const server = await startTestServer();
    const device = await openDevice(server);
    const trace = join(device.dir, 'trace');
    const agent = device.start(undefined, {}, under(trace));
    server.desire((await server.publishRelease('1.0.0', APPS.good)).instruction);
    await until('it is committed', () => server.state.receipts.length > 0, DEADLINE_MS, agent.errorOutput);
    await agent.stop();
    const calls = await callsOf(trace);
    // The shell that becomes the application.
    const start = calls.findIndex((line) => /execve\("\/bin\/sh", .*read -r go/.test(line));
    expect(start).toBeGreaterThan(0);
    // Renamed into its place, and then its folder flushed.
    const [renamed, flushed] = durableBefore(calls, start).slice(-2);
    expect(renamed).toMatch(/rename.*slots\/boot\.[01]\.json/);
    expect(flushed).toMatch(/fsync.*\/slots>/);
  },
);

const RIGS = [
  { name: 'image, GRUB', missing: false, make: () => grubRig(OWN_ACCESS) },
  { name: 'image, U-Boot (fw_setenv must be installed)', missing: !hasTool('fw_setenv'), make: () => ubootRig('rauc') },
];
test.for(swept(RIGS, 1))(
  '$name: the last durable write before the reboot is the boot selector (strace must be installed)',
  LONG,
  async ({ make, missing }, context) => {
    context.skip(!hasStrace || missing, 'strace, or the tools of its boot loader, are not installed');
    const server = await startTestServer();
    const rig = await make();
    const trace = join(rig.dir, 'trace');
    const device = await bootImageDevice(server, rig, { under: under(trace) });
    expect(await device.deploy(await publishImage(server, '1.1.0', 'good'))).toMatchObject({ outcome: 'committed' });
    expect(device.booted).toEqual(['a', 'b']);
    const isReboot = (line: string): boolean => /execve\(.*"echo plainly/.test(line);
    await until('the trace is written', async () => (await callsOf(trace)).some(isReboot), DEADLINE_MS);
    const calls = await callsOf(trace);
    const last = durableBefore(calls, calls.findIndex(isReboot)).at(-1);
    expect(last).toMatch(/f(data)?sync\(.*/);
    expect(last).toContain(`<${rig.environment}>`);
  },
);
