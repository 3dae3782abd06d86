import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ALL_SWEEPS, swept } from '#test/sweep.ts';
import { openCrashRig } from './crash-rig.ts';
import { BALLAST_BYTES, readSelector } from './harness.ts';

// The fault cases 1 to 3. "Old" means: the old slot stays active and healthy, and the device still reports.

const rig = await openCrashRig();

test('1: SIGKILL, half of the download done: resumes; what was verified is not fetched again', async () => {
  const device = await rig.settledDevice();
  // The network is slow: the second half does not come in time.
  rig.server.state.onObject = ({ sha256, from }, bytes, response) => {
    if (from > 0 || bytes.length < BALLAST_BYTES) return false;
    response.writeHead(200, { 'content-length': bytes.length, etag: `"${sha256}"` });
    response.write(bytes.subarray(0, (BALLAST_BYTES / 4) * 3));
    return true;
  };
  const release = await rig.crashAt(device, 'fetch.half');
  expect(await readSelector(device.dataDir)).toMatchObject({ active: 'a', trial: null });
  await rig.finish(device);
  rig.expectCommitted(release);
  expect(rig.requestsOf(release.app)).toEqual([0]);
  const [first, second, ...more] = rig.requestsOf(release.ballast);
  expect([first, more]).toEqual([0, []]);
  expect(second).toBeGreaterThan(2 * 1024 * 1024);
});

test.each(swept(['slots.prepare.unbootable', 'slots.write.content', 'slots.write.recorded'], 1))(
  '2: SIGKILL, in the middle of writing the slot: old; standby still unbootable; resumes (%s)',
  async (step) => {
    const device = await rig.settledDevice();
    const release = await rig.crashAt(device, step);
    expect(await readSelector(device.dataDir)).toMatchObject({ active: 'a', trial: null });
    const record = await readFile(join(device.dataDir, 'slots', 'b.json'), 'utf8').catch(() => '');
    expect(record).not.toContain('bootable');
    const agent = await rig.finish(device);
    rig.expectCommitted(release);
    // The old version ran while the new one was being installed.
    expect(agent.lines.filter(({ event }) => event === 'nothing-boots')).toEqual([]);
  },
);

test('3: SIGKILL, slot written, `activating` not yet recorded: verifies again, activates once', async () => {
  const device = await rig.settledDevice();
  const release = await rig.crashAt(device, 'journal.ready');
  expect(await readSelector(device.dataDir)).toMatchObject({ active: 'a', trial: null });
  const agent = await rig.finish(device);
  rig.expectCommitted(release);
  expect(agent.states().filter((state) => state === 'activating')).toHaveLength(1);
});

test.runIf(ALL_SWEEPS)(
  'a slot that was damaged while the agent was dead is found by verifying again, and not activated',
  async () => {
    const device = await rig.settledDevice();
    await rig.crashAt(device, 'journal.ready');
    const file = join(device.dataDir, 'slots', 'b', 'ballast.bin');
    const bytes = await readFile(file);
    bytes[1000]! ^= 1;
    await writeFile(file, bytes);
    await rig.finish(device);
    expect(rig.server.state.receipts).toMatchObject([
      { outcome: 'failed', error: { code: 'WRITE_VERIFY' }, running: { version: '1.0.0' } },
    ]);
    expect(await rig.isBootable(device, 'b')).toBe(false);
  },
);
