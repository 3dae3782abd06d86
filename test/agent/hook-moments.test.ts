import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { HookMoment } from '#shared/manifest.ts';
import { swept } from '#test/sweep.ts';
import { openCrashRig } from './crash-rig.ts';
import { APPS, type LogLine, until } from './harness.ts';

// Fault case 24: a hook exits 1, hangs, or says "later", at each of its moments. One device, one release after the
// other.

const rig = await openCrashRig();
const device = await rig.settledDevice(afterAll);
const agent = device.start();
afterAll(() => agent.stop());

/** What the hook does each time that it runs; `$RUNS` has a line for each run so far. */
const BEHAVIOURS = {
  'exits with 1': 'exit 1',
  hangs: 'sleep 600',
  'says "later" once': '[ $(wc -l < "$RUNS") -ge 2 ] || exit 75',
} as const;
type Behaviour = keyof typeof BEHAVIOURS;

const deploy = async (when: HookMoment, behaviour: Behaviour) => {
  const runs = join(device.dir, `${when}-${Object.keys(BEHAVIOURS).indexOf(behaviour)}`);
  const script = `RUNS=${runs}; env | grep ^SLUICE_ | sort | tr '\\n' ' ' >> $RUNS; echo >> $RUNS; ${BEHAVIOURS[behaviour]}`;
  const isReverted = when === 'after-revert';
  const release = await rig.publishNext(isReverted ? 'process.exit(3);' : APPS.good, {
    // A hook that hangs is ended, whenever that is; a health hook that never passes fails at the deadline.
    hooks: [{ when, command: ['sh', '-c', script], timeoutMs: behaviour === 'hangs' ? 200 : 20_000 }],
    health: {
      soakMs: 0,
      intervalMs: 50,
      // Of what never passes: long enough for it to have failed when it is over.
      deadlineMs: when === 'health' && behaviour !== 'says "later" once' ? 6_000 : 120_000,
      checks: isReverted ? [{ kind: 'command', command: ['false'] }] : [],
    },
  });
  const { deployment } = release.instruction;
  const isOver = ({ state, deployment: one }: LogLine): boolean => state === 'reported' && one === deployment;
  rig.server.desire(release.instruction);
  await until(`it is over: ${when} ${behaviour}`, () => agent.lines.some(isOver));
  await until('it is idle', () => agent.states().at(-1) === 'idle');
  const known = rig.server.state.receipts.find((receipt) => receipt.deployment === deployment)!;
  // One that hangs may have been ended before it wrote anything.
  const lines = (await readFile(runs, 'utf8').catch(() => '')).trim().split('\n');
  return { release, outcome: known.outcome, code: known.error?.code ?? null, running: known.running!, lines };
};

const EXPECTED: Record<HookMoment, Record<'fails' | 'later', [string, string | null]>> = {
  'before-install': { fails: ['failed', 'HOOK_FAILED'], later: ['committed', null] },
  'after-install': { fails: ['failed', 'HOOK_FAILED'], later: ['committed', null] },
  'before-activate': { fails: ['reverted', 'HOOK_FAILED'], later: ['committed', null] },
  health: { fails: ['reverted', 'SELFTEST_FAILED'], later: ['committed', null] },
  // What is decided stands, whatever they say.
  'after-commit': { fails: ['committed', null], later: ['committed', null] },
  'after-revert': { fails: ['reverted', 'TRIAL_CRASHED'], later: ['reverted', 'TRIAL_CRASHED'] },
};

describe.each(swept(HookMoment.options, 2))('24: the hook %s', (when) => {
  test.each(Object.keys(BEHAVIOURS) as Behaviour[])('%s', async (behaviour) => {
    const { outcome, code, lines } = await deploy(when, behaviour);
    const isLater = behaviour === 'says "later" once';
    expect([outcome, code]).toEqual(EXPECTED[when][isLater ? 'later' : 'fails']);
    // "Later" is heard while nothing is decided; what fails is not tried again, unless it is a check.
    const isHeard = isLater && !['after-commit', 'after-revert'].includes(when);
    const runs = when === 'health' ? Math.min(lines.length, 2) : lines.length;
    expect(runs).toBe(isHeard || (when === 'health' && lines.length > 1) ? 2 : 1);
  });
});

test('a hook knows what goes on, what was there before, and where both are', async () => {
  const before = rig.server.state.reports.at(-1)?.running ?? null;
  const { release, lines, running } = await deploy('after-commit', 'exits with 1');
  const told = Object.fromEntries(
    lines
      .at(-1)!
      .split(' ')
      .flatMap((pair) => (pair.includes('=') ? [pair.split('=', 2) as [string, string]] : [])),
  );
  expect(told).toMatchObject({
    SLUICE_HOOK: 'after-commit',
    SLUICE_DEPLOYMENT: release.instruction.deployment,
    SLUICE_PRODUCT: 'gateway',
    SLUICE_VERSION: release.version,
    SLUICE_SLOT: running.slot,
    SLUICE_SLOT_FOLDER: join(device.dataDir, 'slots', running.slot),
    SLUICE_DATA: join(device.dataDir, 'application'),
    SLUICE_SECRETS: join(device.dataDir, 'secrets'),
  });
  expect(told['SLUICE_OLD_SLOT']).not.toBe(running.slot);
  expect(told['SLUICE_OLD_SLOT_FOLDER']).toBe(join(device.dataDir, 'slots', told['SLUICE_OLD_SLOT']!));
  expect(told['SLUICE_OLD_VERSION']).toBe(before?.version ?? told['SLUICE_OLD_VERSION']);
});
