/**
 * Keeps the packs that devices fetch from: one at a time, in a thread, whatever `planPacks` says is worth making. Packs
 * are derived: what a crash, a full disk or an eviction takes is made again, or devices fetch chunks one by one.
 */

import { type Chunked, type PackJob, planPacks } from '#server/domain/release/pack-plan.ts';
import { makePackFile } from '#server/store/make-pack-file.ts';
import { type Objects, objectFile } from '#server/store/objects.ts';
import type { Store } from '#server/store/store.ts';
import type { PackRecord } from '#server/store/transfer.ts';
import type { Sha256 } from '#shared/ids.ts';
import { packTargets, type TargetStore } from './pack-targets.ts';

export type PacksDeps = {
  store: TargetStore & Pick<Store, 'listPacks' | 'savePack' | 'evictPacks'>;
  objects: Pick<Objects, 'produce' | 'keep' | 'drop' | 'remove' | 'size'>;
  dataDir: string;
  now: () => number;
  /** Packs together; 0 makes none. */
  bytesMax: number;
  report: {
    made(pack: { to: Sha256; from: Sha256 | null; level: number; bytes: number; ms: number }): void;
    failed(error: unknown): void;
  };
};

export type Packs = {
  /** Something was staged, planned or reported: look what is worth making now. Returns at once; many calls are one. */
  wake(): void;
  /** Until there is nothing left to make. */
  settled(): Promise<void>;
  /** Ends the thread that is at work; what it made so far is gone. */
  stop(): Promise<void>;
};

export const startPacks = (deps: PacksDeps): Packs => {
  const stopping = new AbortController();
  const { signal } = stopping;
  /** Asked for again after the plan that is worked on was made. */
  let asked = false;
  let working: Promise<void> | undefined;
  /** Each is tried once in an hour at most: it may fail again, or drive out another that is then made again. */
  let tried = new Set<string>();
  let triedSince = performance.now();

  const work = async (): Promise<void> => {
    while (!signal.aborted) {
      if (performance.now() - triedSince >= AGAIN_MS) [tried, triedSince] = [new Set(), performance.now()];
      asked = false;
      const jobs = await planNow(deps);
      const job = jobs.find((one) => !tried.has(keyOf(one)));
      if (job === undefined) {
        if (asked) continue;
        return;
      }
      tried.add(keyOf(job));
      await perform(deps, job, signal);
    }
  };
  const wake = (): void => {
    asked = true;
    if (signal.aborted || deps.bytesMax === 0) return;
    working ??= work()
      .catch((error: unknown) => {
        asked = false;
        deps.report.failed(error);
      })
      .finally(() => {
        working = undefined;
        // Asked for in the moment between the last look and now.
        if (asked) wake();
      });
  };
  return {
    wake,
    settled: async () => {
      await working;
    },
    stop: async () => {
      stopping.abort();
      await working;
    },
  };
};

const AGAIN_MS = 3_600_000;
const keyOf = ({ to, from, level }: PackJob): string => `${to.index}/${from?.index ?? ''}/${level}`;

const planNow = async (deps: PacksDeps): Promise<PackJob[]> => {
  const targets = await packTargets(deps.store);
  const made: PackRecord[] = [];
  for (const pack of await deps.store.listPacks(targets.map(({ index }) => index))) {
    // A restored backup has none of them.
    if ((await deps.objects.size(pack.sha256)) !== undefined) made.push(pack);
  }
  return planPacks(targets, made, deps.bytesMax);
};

/**
 * In an order in which a crash leaves only files that nothing refers to: the object, the record. Then what is beyond
 * the limit goes.
 */
const perform = async (deps: PacksDeps, job: PackJob, signal: AbortSignal): Promise<void> => {
  const files = ({ artifact, index }: Chunked) => ({
    artifact: objectFile(deps.dataDir, artifact),
    index: objectFile(deps.dataDir, index),
  });
  const { level } = job;
  const from = job.from?.index ?? null;
  const since = performance.now();
  try {
    const input = { to: files(job.to), from: job.from === null ? null : files(job.from), level };
    const staged = await deps.objects.produce((out) => makePackFile({ ...input, out }, signal));
    if (!staged.ok) throw new Error(staged.detail);
    const { sha256, bytes } = staged.value;
    if (bytes > deps.bytesMax) {
      await deps.objects.drop(staged.value);
      return;
    }
    await deps.objects.keep(staged.value);
    const at = deps.now();
    await deps.store.savePack({ to: job.to.index, from, level, sha256, bytes, madeAt: at, usedAt: at });
    deps.report.made({ to: job.to.index, from, level, bytes, ms: Math.round(performance.now() - since) });
    for (const evicted of await deps.store.evictPacks(deps.bytesMax)) await deps.objects.remove(evicted);
  } catch (error) {
    if (!signal.aborted) deps.report.failed(error);
  }
};
