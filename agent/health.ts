/** Watches a trial: performs the manifest's checks until the version is proven or has failed. */
import type { HealthPolicy } from '#shared/manifest.ts';
import type { HealthFailure } from './domain/health.ts';

export type TrialHealthOptions = {
  policy: HealthPolicy;
  /** How much of the deadline an earlier run of the agent used already; 0 for a new trial. */
  elapsedMs: number;
  /** Replaces `{port}` in a check's URL. */
  port?: number;
  /** Where command checks run: the slot's folder. */
  folder: string;
  environment?: Record<string, string>;
  /** The supervisor fits; a version without an application is `null`, and its process counts as up. */
  process: {
    running(): unknown;
    listen(listener: (exit: { code: number | null; signal: string | null }) => void): () => void;
  } | null;
  /** Whether the server answers now (the link is up); looked at every `policy.intervalMs`. */
  serverReachable(): boolean;
  signal: AbortSignal;
  /** Every change of the one sentence that says what the trial waits for. */
  onWaiting?(sentence: string): void;
};

export type TrialVerdict =
  | { verdict: 'healthy' }
  | ({ verdict: 'failed' } & HealthFailure)
  /** `signal` was aborted; the trial is undecided. */
  | { verdict: 'aborted' };

/** Resolves by the deadline at the latest. Nothing of its checks runs any more when it does. */
export const runTrialHealth = async (_options: TrialHealthOptions): Promise<TrialVerdict> => {
  throw new Error('not built yet');
};
