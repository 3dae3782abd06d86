/**
 * What a newcomer sees of the demo: chapters, and under them a panel of eight devices that moves (lines, without a
 * terminal).
 */

import type { z } from 'zod';
import { releaseRef } from '#shared/ids.ts';
import type { DeploymentView, DeviceView, RolloutView } from '#shared/views.ts';
import { harmless, liveTerminal, paint, print } from '../terminal.ts';

export type Snapshot = { devices: DeviceView[]; rollout: RolloutView; deployments: z.infer<typeof DeploymentView>[] };

export type View = {
  /** What begins now. */
  chapter(text: string): void;
  note(text: string): void;
  show(snapshot: Snapshot): void;
  /** Leaves the last panel standing. */
  settle(): void;
};

const STEPS = ['planned', 'offered', 'fetching', 'installing', 'ready', 'trial', 'committed'];
const COLOURS: Record<string, (text: string) => string> = {
  planned: paint.dim,
  committed: paint.green,
  reverted: paint.red,
  failed: paint.red,
  overdue: paint.red,
  withdrawn: paint.yellow,
  trial: paint.yellow,
};
/** What the states mean, in the fewest words. */
const MEANINGS: Record<string, string> = {
  planned: 'not offered yet',
  offered: 'has an offer',
  fetching: 'downloads',
  installing: 'writes its standby slot',
  ready: 'installed, not active',
  trial: 'runs it on trial',
  committed: 'proved healthy, stays',
  reverted: 'failed its trial, went back',
  failed: 'failed',
  withdrawn: 'offer withdrawn, untouched',
  overdue: 'silent too long',
  skipped: 'ran it already',
};

export const openView = (startedAt: number): View => {
  const live = liveTerminal();
  const seconds = (): string => `${((performance.now() - startedAt) / 1000).toFixed(1).padStart(5)} s`;
  const seen = new Map<string, string>();
  let panelLines = 0;
  const erase = (): void => {
    if (panelLines > 0) process.stdout.write(`\u001b[${panelLines}A\u001b[0J`);
    panelLines = 0;
  };
  const say = (text: string): void => {
    erase();
    print(text);
  };
  return {
    chapter: (text) => say(`\n${paint.dim(seconds())}  ${paint.bold(text)}`),
    note: (text) => say(`         ${text}`),
    show: (snapshot) => {
      if (!live) return sayChanges(snapshot, seen, (text) => print(`${seconds()}  ${text}`));
      erase();
      const lines = panel(snapshot, process.stdout.columns || 80);
      print(lines.join('\n'));
      panelLines = lines.length;
    },
    settle: () => {
      panelLines = 0;
    },
  };
};

const rowOf = (device: DeviceView, snapshot: Snapshot) => {
  const deployment = snapshot.deployments.find((one) => one.device === device.id);
  const state = deployment?.state ?? 'planned';
  const runs = device.running === null ? 'nothing' : releaseRef(device.running.product, device.running.version);
  // Once it is over, a device that was never offered anything never will be.
  const over = ['halted', 'aborted'].includes(snapshot.rollout.state);
  const meaning = over && state === 'planned' ? 'never touched' : (MEANINGS[state] ?? '');
  return { state, meaning, runs, cohort: deployment?.cohort ?? '', colour: COLOURS[state] ?? paint.cyan };
};

/**
 * One line a device: how far it is, and what it runs. No line is wider than the terminal, so that erasing stays exact.
 */
const panel = (snapshot: Snapshot, columns: number): string[] => {
  const rows = snapshot.devices.map((device) => {
    const { state, meaning, runs, cohort, colour } = rowOf(device, snapshot);
    const step = STEPS.indexOf(state);
    const bar = step < 0 ? 'x'.repeat(6) : '='.repeat(step).padEnd(6, '.');
    const head = `         ${device.id}  ${cohort.padEnd(9)} [`;
    const words = `${state.padEnd(10)} ${meaning.padEnd(27)} runs ${runs}`;
    return `${head}${colour(bar)}] ${colour(words.slice(0, Math.max(0, columns - head.length - 9)))}`;
  });
  const { rollout } = snapshot;
  const explanation = harmless(rollout.explanation).slice(0, Math.max(0, columns - 10));
  return [...rows, `         ${paint.dim(explanation)}`];
};

/** Without a terminal: one line for each thing that changed. */
const sayChanges = (snapshot: Snapshot, seen: Map<string, string>, say: (text: string) => void): void => {
  const { rollout } = snapshot;
  const changed = (key: string, value: string): boolean => {
    const before = seen.get(key);
    seen.set(key, value);
    return before !== value;
  };
  for (const device of snapshot.devices) {
    const { state, meaning, runs } = rowOf(device, snapshot);
    if (changed(`${rollout.id}/${device.id}`, state) && state !== 'planned') {
      say(`  ${device.id}  ${state.padEnd(10)} ${meaning.padEnd(27)} runs ${runs}`);
    }
  }
  if (changed(rollout.id, `${rollout.state}/${rollout.wave}`)) say(`  ${harmless(rollout.explanation)}`);
};
