/** A thread that runs rollouts: one message is one piece of work, one answer its outcomes. */
import { parentPort, workerData } from 'node:worker_threads';
import type { Rollout } from '../domain/rollout/rollout.ts';
import { Simulation } from './model.ts';
import { planTrial, runOnce } from './run-once.ts';
import type { Piece, PieceDone } from './simulate.ts';

const port = parentPort!;
const { trials, model, seed } = Simulation.parse(workerData);
const planned = new Map<number, Rollout>();
const planOf = (index: number): Rollout => {
  const plan = planned.get(index) ?? planTrial(trials[index]!, model.devices);
  planned.set(index, plan);
  return plan;
};

port.on('message', (piece: Piece) => {
  const { trial, failing, from, to } = piece;
  const outcomes = Array.from({ length: to - from }, (_, n) =>
    runOnce(planOf(trial), { ...model, failing }, seed, from + n),
  );
  const done: PieceDone = { piece, outcomes };
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  port.postMessage(done);
});
