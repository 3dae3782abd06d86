import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { HOOK_RUNS_MAX } from '#agent/domain/hook-runs.ts';
import { HookMoment } from '#shared/manifest.ts';
import { swept } from '#test/sweep.ts';
import { openCrashRig } from './crash-rig.ts';
import { APPS, type LogLine, readSelector, until } from './harness.ts';

// Hooks that end the agent, or reboot the device: one device, whose agent is started again whenever it ends, one
// release after the other.

const rig = await openCrashRig();
const device = await rig.settledDevice(afterAll);

const life = { starts: 0, stopping: false, agent: device.start(), lines: [] as LogLine[] };
const lives = (async () => {
  for (; !life.stopping; life.agent = device.start()) {
    life.starts += 1;
    await life.agent.ended;
    life.lines.push(...life.agent.lines);
  }
})();
const said = (): LogLine[] => [...life.lines, ...life.agent.lines];
afterAll(async () => {
  life.stopping = true;
  await life.agent.stop();
  await lives;
});

/** What the hook does whenever it runs. `$DATA` is the agent's folder. */
const BEHAVIOURS = {
  'stops the agent': 'kill -TERM $PPID; sleep 600',
  // What outlives an agent that was killed ends by itself.
  'kills the agent': 'kill -KILL $PPID',
  // As `reboot` and `systemctl restart` do: it has ended, and the agent knows that, before the agent is killed.
  'ends well, and the agent is killed a moment later': `export AGENT=$PPID; setsid sh -c '
      : > $DATA/left
      while kill -0 $AGENT && ! tail -n 1 $DATA/journal | grep -q "good.:true"; do sleep 0.02; done
      kill -KILL $AGENT' > /dev/null 2>&1 &
    until [ -e $DATA/left ]; do sleep 0.01; done; rm $DATA/left`,
};
type Behaviour = keyof typeof BEHAVIOURS;

const deploy = async (when: HookMoment, behaviour: Behaviour) => {
  const runs = join(device.dir, `${when}-${Object.keys(BEHAVIOURS).indexOf(behaviour)}`);
  const pid = `$(sed 's/.*"pid":\\([0-9]*\\).*/\\1/' $DATA/supervisor/application.json)`;
  const script = `export DATA=${device.dataDir}; kill -0 ${pid} && echo up >> ${runs} || echo down >> ${runs}; ${BEHAVIOURS[behaviour]}`;
  const isReverted = when === 'after-revert';
  const release = await rig.publishNext(isReverted ? 'process.exit(3);' : APPS.good, {
    hooks: [{ when, command: ['sh', '-c', script] }],
    health: {
      // No health hook is over before its agent is.
      soakMs: when === 'health' ? 60_000 : 0,
      intervalMs: 50,
      checks: isReverted ? [{ kind: 'command', command: ['false'] }] : [],
    },
  });
  const { deployment } = release.instruction;
  const startsBefore = life.starts;
  rig.server.desire(release.instruction);
  const isOver = () => said().some(({ state, deployment: one }) => state === 'reported' && one === deployment);
  await until(`it is over: ${when} ${behaviour}`, isOver, 90_000, () => said().map(({ msg }) => msg));
  await until('it is idle', () => life.agent.states().at(-1) === 'idle');
  const receipts = rig.server.state.receipts.filter((receipt) => receipt.deployment === deployment);
  expect(receipts).toHaveLength(1);
  const { outcome, error, running } = receipts[0]!;
  const { active, trial } = await readSelector(device.dataDir);
  expect({ active, trial, isNew: running?.version === release.version }).toEqual({
    active: running?.slot,
    trial: null,
    isNew: outcome === 'committed',
  });
  const seen = (await readFile(runs, 'utf8')).trim().split('\n');
  expect(seen.length).toBeLessThanOrEqual(HOOK_RUNS_MAX);
  expect(life.starts - startsBefore).toBeGreaterThanOrEqual(1);
  expect(life.starts - startsBefore).toBeLessThanOrEqual(seen.length);
  return { outcome, code: error?.code ?? null, seen };
};

const EXPECTED: Record<HookMoment, [string, string | null]> = {
  'before-install': ['failed', 'HOOK_FAILED'],
  'after-install': ['failed', 'HOOK_FAILED'],
  'before-activate': ['reverted', 'HOOK_FAILED'],
  health: ['reverted', 'TRIAL_CRASHED'],
  'after-commit': ['committed', null],
  'after-revert': ['reverted', 'TRIAL_CRASHED'],
};

describe.each(swept(HookMoment.options, 2))('a hook %s', (when) => {
  // One that ends well is no different from another when it is a check.
  const behaviours = (Object.keys(BEHAVIOURS) as Behaviour[]).slice(0, when === 'health' ? 2 : 3);
  test.each(behaviours)('that %s: its outcome is true and told once, and an application runs', async (behaviour) => {
    const { outcome, code, seen } = await deploy(when, behaviour);
    const endsWell = behaviour === 'ends well, and the agent is killed a moment later';
    const isBefore = EXPECTED[when][1] === 'HOOK_FAILED';
    expect([outcome, code]).toEqual(endsWell && isBefore ? ['committed', null] : EXPECTED[when]);
    expect(seen).toEqual(seen.map(() => 'up'));
  });
});
