/**
 * Many runs of every trial, spread over threads. The outcome depends on the seed alone, not on how many threads there
 * are.
 */
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { figuresOf } from './figures.ts';
import type { RunOutcome, Simulation, TrialFigures } from './model.ts';

/** Runs `from` (included) to `to` (excluded) of one trial, of a release that fails at the rate `failing`. */
export type Piece = { trial: number; failing: number; from: number; to: number };
export type PieceDone = { piece: Piece; outcomes: RunOutcome[] };

const PIECE_RUNS = 4;
const THREADS_MAX = 16;

/** The runs of one trial: of the release in question, and of a good one. */
export type TrialRuns = { asked: RunOutcome[]; good: RunOutcome[] };
type OnProgress = (done: number, total: number) => void;

/** One row for each trial, in their order. */
export const simulate = async (simulation: Simulation, onProgress?: OnProgress): Promise<TrialFigures[]> => {
  const runs = await runAll(simulation, onProgress);
  return simulation.trials.map(({ name }, trial) => figuresOf(name, runs[trial]!.asked, runs[trial]!.good));
};

/** For each trial, in their order. */
export const runAll = async (simulation: Simulation, onProgress: OnProgress = () => {}): Promise<TrialRuns[]> => {
  const { trials, model, runs } = simulation;
  // Where the release in question is as good as a good one, its runs serve for both.
  const good = Math.min(simulation.good, model.failing);
  const rates = [...new Set([model.failing, good])];
  const outcomes = new Map<string, RunOutcome[]>();
  const keyOf = (trial: number, failing: number): string => `${trial} ${failing}`;
  const pieces: Piece[] = [];
  for (const trial of trials.keys()) {
    for (const failing of rates) {
      outcomes.set(keyOf(trial, failing), []);
      for (let from = 0; from < runs; from += PIECE_RUNS)
        pieces.push({ trial, failing, from, to: Math.min(runs, from + PIECE_RUNS) });
    }
  }
  const total = runs * trials.length * rates.length;
  let finished = 0;
  await inThreads(simulation, pieces, ({ piece, outcomes: found }) => {
    const all = outcomes.get(keyOf(piece.trial, piece.failing))!;
    for (const [n, outcome] of found.entries()) all[piece.from + n] = outcome;
    finished += found.length;
    onProgress(finished, total);
  });
  return trials.map((_, trial) => ({
    asked: outcomes.get(keyOf(trial, model.failing))!,
    good: outcomes.get(keyOf(trial, good))!,
  }));
};

/** Each thread takes the next piece when it is done with one. The first failure ends them all. */
const inThreads = async (simulation: Simulation, pieces: Piece[], onDone: (done: PieceDone) => void): Promise<void> => {
  const queue = pieces.values();
  const threads = Math.min(availableParallelism(), THREADS_MAX, pieces.length);
  const workers = Array.from(
    { length: threads },
    () => new Worker(new URL('./worker.ts', import.meta.url), { workerData: simulation }),
  );
  const work = async (worker: Worker): Promise<void> => {
    for (const piece of queue) {
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
      worker.postMessage(piece);
      const [done]: PieceDone[] = await once(worker, 'message'); // rejects when the thread fails
      onDone(done!);
    }
  };
  try {
    await Promise.all(workers.map(work));
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
};
