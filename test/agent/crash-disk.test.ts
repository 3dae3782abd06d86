/** Real agents on a full disk, without a network, with a revert that fails. */

import { execFileSync, spawnSync } from 'node:child_process';
import { cp, mkdir, readdir, readlink, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readStatus } from '#agent/local/status-text.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { openCrashRig } from './crash-rig.ts';
import { APPS, NEVER_WELL, type RunningAgent, until } from './harness.ts';
import { COPIES, flipByte } from './slots/slot-pair.ts';
import { canMount, mountSmall } from './small-disk.ts';

const rig = await openCrashRig();

/** An outcome has come; a failure says what the agent did last. */
const untilReported = (agent: RunningAgent, what: string) =>
  until(
    what,
    () => rig.server.state.receipts.length > 0,
    60_000,
    () => agent.lines.slice(-5),
  );

/** A process whose working directory is this slot. */
const runsFrom = async (folder: string): Promise<boolean> => {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const folders = await Promise.all(pids.map((pid) => readlink(`/proc/${pid}/cwd`).catch(() => '')));
  return folders.includes(folder);
};

/** The device's data folder becomes a file system of its own, with so many bytes. */
const onSmallDisk = async (dataDir: string, bytes: number) => {
  await rename(dataDir, `${dataDir}.before`);
  await mkdir(dataDir);
  const end = mountSmall(dataDir, bytes);
  await cp(`${dataDir}.before`, dataDir, { recursive: true });
  const filler = join(dataDir, 'filler');
  return {
    fill: async () => {
      await writeFile(filler, Buffer.alloc(bytes)).catch(() => undefined);
      expect(spawnSync('sh', ['-c', `echo more > '${join(dataDir, 'more')}'`]).status).not.toBe(0);
    },
    empty: () => rm(filler),
    end,
  };
};

test.skipIf(!canMount())(
  "18: disk full, download, journal, log: fails clean; a log that can't be written is not fatal (the journal, on a small file system, which needs root: what is offered is installed once there is room)",
  async () => {
    const device = await rig.settledDevice();
    const disk = await onSmallDisk(device.dataDir, 64 * 1024 * 1024);
    try {
      await disk.fill();
      const agent = device.start();
      await until('it says so to its server', () => rig.server.state.reports.at(-1)?.attributes['disk'] === 'full');
      expect(agent.lines.filter(({ event }) => event === 'disk-trouble')).toHaveLength(1);
      await until('its application runs', () => runsFrom(join(device.dataDir, 'slots/a')), 60_000, agent.errorOutput);
      const release = await rig.publishNext(APPS.good);
      rig.server.desire(release.instruction);
      await disk.empty();
      await untilReported(agent, 'it is committed');
      expect(rig.server.state.receipts).toMatchObject([{ outcome: 'committed', running: { slot: 'b' } }]);
      await agent.stop();
    } finally {
      disk.end();
    }
  },
);

test.skipIf(!canMount())(
  "18: disk full, download, journal, log: fails clean; a log that can't be written is not fatal (a download, on a small file system, which needs root)",
  async () => {
    const device = await rig.settledDevice();
    const disk = await onSmallDisk(device.dataDir, 11 * 1024 * 1024);
    try {
      const agent = device.start();
      const release = await rig.publishNext(APPS.good);
      rig.server.desire(release.instruction);
      await untilReported(agent, 'it has failed');
      expect(rig.server.state.receipts).toMatchObject([
        { outcome: 'failed', error: { code: 'NO_SPACE' }, running: { version: '1.0.0', slot: 'a' } },
      ]);
      expect(await rig.isBootable(device, 'b')).toBe(false);
      expect(await runsFrom(join(device.dataDir, 'slots/a'))).toBe(true);
      await agent.stop();
    } finally {
      disk.end();
    }
  },
);

test.skipIf(!canMount())(
  'an agent that starts on a file system that can only be read runs its application, says so, and installs once it can be written again (which needs root)',
  async () => {
    const device = await rig.settledDevice();
    const disk = await onSmallDisk(device.dataDir, 64 * 1024 * 1024);
    const remount = (how: string) => execFileSync('mount', ['-o', `remount,${how}`, device.dataDir]);
    try {
      remount('ro');
      const agent = device.start();
      await until(
        'it says so',
        () => rig.server.state.reports.at(-1)?.attributes['disk'] === 'read-only',
        60_000,
        () => [agent.lines.slice(-5), agent.errorOutput()],
      );
      await until('its application runs', () => runsFrom(join(device.dataDir, 'slots/a')));
      const release = await rig.publishNext(APPS.good);
      rig.server.desire(release.instruction);
      await until('the offer waits', () => agent.lines.some(({ event }) => event === 'desired-refused'));
      const read = await readStatus(device.dataDir, Date.now());
      expect(read?.alive).toBe(true);
      expect([rig.server.state.receipts, agent.hasEnded()]).toEqual([[], false]);
      remount('rw');
      await untilReported(agent, 'it is committed');
      expect(rig.server.state.receipts).toMatchObject([{ outcome: 'committed', running: { slot: 'b' } }]);
      await agent.stop();
    } finally {
      disk.end();
    }
  },
);

test('22: new version crashes, or hangs, trial: reverts, by boot counter or watchdog (it hangs)', async () => {
  const device = await rig.settledDevice();
  const agent = device.start();
  // No one ever accepts there.
  const checks = [{ kind: 'tcp' as const, port: 1, timeoutMs: 200 }];
  const release = await rig.publishNext(APPS.good, {
    health: { checks, soakMs: 0, deadlineMs: 1_500, intervalMs: 100 },
  });
  rig.server.desire(release.instruction);
  await untilReported(agent, 'it has reverted');
  expect(rig.server.state.receipts).toMatchObject([{ outcome: 'reverted', running: { version: '1.0.0', slot: 'a' } }]);
  expect(agent.states()).toContain('trial');
});

test.runIf(ALL_SWEEPS)('23: new version breaks the network, trial: reverts after the deadline', async () => {
  const device = await rig.settledDevice();
  const agent = device.start();
  // Time enough, on any machine, to be cut off while it is on trial.
  const health = { soakMs: 120_000, deadlineMs: 10_000, intervalMs: 100 };
  const release = await rig.publishNext(APPS.good, { health });
  rig.server.desire(release.instruction);
  await until('it is on trial', () => agent.states().includes('trial'));
  rig.server.goOffline();
  try {
    await until(
      'it has reverted',
      () => agent.states().includes('reverted'),
      60_000,
      () => agent.lines.slice(-5),
    );
    expect(rig.server.state.receipts).toEqual([]);
  } finally {
    rig.server.state.offline = false;
  }
  await untilReported(agent, 'it says so when it can');
  expect(rig.server.state.receipts).toMatchObject([{ outcome: 'reverted', running: { version: '1.0.0', slot: 'a' } }]);
});

test('25: the revert itself fails, or boots never end, revert: bounded, ends in failed, reported (the revert fails)', async () => {
  const device = await rig.settledDevice();
  await rig.crashAt(device, 'journal.reverting', APPS.crashing, NEVER_WELL);
  for (const copy of COPIES) await flipByte(join(device.dataDir, 'slots', copy), 20);
  const agent = device.start();
  await untilReported(agent, 'it has said so');
  expect(rig.server.state.receipts).toMatchObject([{ outcome: 'failed', error: { code: 'REVERT_FAILED' } }]);
  expect(agent.states().filter((state) => state === 'reverting').length).toBeLessThan(3);
});
