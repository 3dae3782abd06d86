import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readJournal } from '#agent/deployment/journal.ts';
import type { Journey } from '#agent/domain/install-state.ts';
import { ALL_SWEEPS, swept } from '#test/sweep.ts';
import { openCrashRig } from './crash-rig.ts';
import { APPS, NEVER_WELL, readSelector, until } from './harness.ts';

// The fault cases 4 to 8, 12 and 13.

const rig = await openCrashRig();

const YEAR_MS = 365 * 86_400_000;
/** For an agent whose clock was set by so much since its last life. */
const clockSetBy = (ms: number) => ({
  NODE_OPTIONS: `--import=data:text/javascript,const%20n=Date.now;Date.now=()=>n()-(${-ms})`,
});

const recorded = async (dataDir: string): Promise<Journey> => {
  const read = readJournal(await readFile(join(dataDir, 'journal')));
  const install = read.state === 'good' ? read.newest?.install : undefined;
  if (install === undefined || install.state === 'idle') throw new Error('no deployment is recorded');
  return install;
};

describe('from activation on', () => {
  test('4: SIGKILL, `activating` recorded, boot selector not written: idempotent retry', async () => {
    const device = await rig.settledDevice();
    const release = await rig.crashAt(device, 'journal.activating');
    expect(await readSelector(device.dataDir)).toMatchObject({ active: 'a', trial: null });
    await rig.finish(device);
    rig.expectCommitted(release);
  });

  test('5: SIGKILL, boot selector written, reboot not done: reboots, writes nothing again', async () => {
    const device = await rig.settledDevice();
    const release = await rig.crashAt(device, 'slots.activate.written');
    expect(await readSelector(device.dataDir)).toMatchObject({ active: 'a', trial: { slot: 'b', triesLeft: 3 } });
    await rig.finish(device, 'slots.activate.written');
    rig.expectCommitted(release);
  });

  test('6: SIGKILL, during the health gate: gate restarts, its deadline kept (a version that is well)', async () => {
    const device = await rig.settledDevice();
    const release = await rig.crashAt(device, 'journal.trial');
    const agent = await rig.finish(device);
    rig.expectCommitted(release);
    expect(agent.states()).toContain('committing');
  });

  test.runIf(ALL_SWEEPS)(
    '6: SIGKILL, during the health gate: gate restarts, its deadline kept (a version that is well, on a device that learns what year it is)',
    async () => {
      const device = await rig.settledDevice();
      const release = await rig.crashAt(device, 'journal.trial');
      const agent = await rig.finish(device, undefined, clockSetBy(YEAR_MS));
      rig.expectCommitted(release);
      expect(agent.states()).toContain('committing');
    },
  );

  test.runIf(ALL_SWEEPS).each([
    ['ahead', YEAR_MS],
    ['back', -YEAR_MS],
  ])(
    '6: SIGKILL, during the health gate: gate restarts, its deadline kept (one that is not, while the clock is set %s)',
    async (_, setByMs) => {
      const device = await rig.settledDevice();
      // So long that half of it is far more than any machine takes to start an agent.
      const deadlineMs = 30_000;
      const health = { checks: [{ kind: 'command', command: ['false'] }], soakMs: 0, deadlineMs, intervalMs: 50 };
      await rig.crashAt(device, 'journal.trial', APPS.good, { health });
      const killedAt = Date.now();
      const { since } = await recorded(device.dataDir);
      await until('half of the deadline has passed', () => Date.now() > killedAt + deadlineMs / 2);
      const agent = await rig.finish(device, undefined, clockSetBy(setByMs));
      const [receipt] = rig.server.state.receipts;
      expect(receipt).toMatchObject({
        outcome: 'reverted',
        error: { code: expect.stringMatching(/^(SELFTEST_FAILED|TRIAL_DEADLINE)$/) },
        running: { version: '1.0.0' },
      });
      const [started, gaveUp] = ['agent-started', 'reverting'].map((name) =>
        Date.parse(agent.lines.find(({ event, state }) => (state ?? event) === name)!.time),
      ) as [number, number];
      // Less than a whole deadline after the restart.
      expect(gaveUp - started).toBeLessThan(deadlineMs);
      // And a whole one after its beginning, give or take what clocks round.
      expect(gaveUp - setByMs - since).toBeGreaterThan(deadlineMs - 1_000);
    },
  );

  test.each(swept(['journal.committing', 'slots.commit.written', 'journal.committed'], 1))(
    '7: SIGKILL, around commit: converges to committed, reported once (%s)',
    async (step) => {
      const device = await rig.settledDevice();
      const release = await rig.crashAt(device, step);
      await rig.finish(device);
      rig.expectCommitted(release);
      expect(await readSelector(device.dataDir)).toMatchObject({ active: 'b', trial: null });
    },
  );

  test('7: SIGKILL, around commit: converges to committed, reported once (a receipt whose acknowledgement was lost is sent again as it was)', async () => {
    const device = await rig.settledDevice();
    rig.server.state.acknowledge = false;
    const agent = device.start();
    const release = await rig.publishNext(APPS.good);
    rig.server.desire(release.instruction);
    await until('the receipt has come', () => rig.server.state.receipts.length > 0);
    agent.kill();
    await agent.ended;
    rig.server.state.acknowledge = true;
    const again = device.start();
    await until('it is idle', () => again.states().at(-1) === 'idle');
    rig.expectCommitted(release);
    expect(again.states()).toEqual(['reported', 'idle']);
  });

  test.each(swept(['journal.reverting', 'slots.revert.written', 'journal.verifying-revert', 'journal.reverted'], 1))(
    '8: SIGKILL, in revert: revert completes (%s)',
    async (step) => {
      const device = await rig.settledDevice();
      const release = await rig.crashAt(device, step, APPS.crashing, NEVER_WELL);
      await rig.finish(device);
      expect(rig.server.state.receipts).toMatchObject([
        {
          deployment: release.instruction.deployment,
          outcome: 'reverted',
          error: { code: 'TRIAL_CRASHED' },
          running: { version: '1.0.0', slot: 'a' },
        },
      ]);
      expect(await readSelector(device.dataDir)).toMatchObject({ active: 'a', trial: null });
    },
  );

  test.runIf(ALL_SWEEPS)(
    '22: new version crashes, or hangs, trial: reverts, by boot counter or watchdog (the agent is killed at every boot of a trial)',
    async () => {
      const device = await rig.settledDevice();
      await rig.crashAt(device, 'slots.boot.counted');
      for (let boots = 0; boots < 2; boots += 1) await device.start('slots.boot.counted').ended;
      await rig.finish(device);
      expect(rig.server.state.receipts).toMatchObject([
        { outcome: 'reverted', error: { code: 'TRIAL_CRASHED' }, running: { version: '1.0.0' } },
      ]);
    },
  );
});

describe('the journal', () => {
  test('12: truncated journal tail, start: previous record used', async () => {
    const device = await rig.settledDevice();
    const release = await rig.crashAt(device, 'journal.trial');
    const file = join(device.dataDir, 'journal');
    const bytes = await readFile(file);
    await writeFile(file, bytes.subarray(0, bytes.length - 7));
    const agent = await rig.finish(device);
    expect(agent.lines.map(({ event }) => event)).toContain('journal-torn-tail');
    rig.expectCommitted(release);
  });

  test('13: bit flip in the middle of the journal, start: quarantined, state rebuilt from the slots', async () => {
    const device = await rig.settledDevice();
    const release = await rig.crashAt(device, 'journal.trial');
    const file = join(device.dataDir, 'journal');
    const bytes = await readFile(file);
    bytes[Math.floor(bytes.length / 2)]! ^= 1;
    await writeFile(file, bytes);
    const agent = await rig.finish(device);
    const events = agent.lines.map(({ event }) => event);
    expect(events).toContain('journal-quarantined');
    expect(events).toContain('trial-forgotten');
    expect(await readdir(device.dataDir)).toContain('journal.damaged-1');
    // What the server desires is begun again, and the floor was not forgotten.
    rig.expectCommitted(release);
    expect(rig.server.state.reports.every(({ floor }) => floor >= 1)).toBe(true);
  });
});
