/** What the agent remembers beyond the deployment that goes on. */
import { z } from 'zod';
import { Id } from '#shared/ids.ts';
import { HookRuns } from './hook-runs.ts';
import { attemptOf, isBeforeActivation, stepInstall } from './install.ts';
import { type Effect, type InstallEvent, InstallState } from './install-state.ts';

/** Everything that the agent remembers: one journal record is one of these. */
export const Memory = z.object({
  install: InstallState,
  /** Of the deployment that goes on. */
  hookRuns: HookRuns.optional(),
  /** The newest desired document that was acted on; an older or equal one is not news. */
  desiredSeq: z.number().int().min(0),
  /**
   * How the newest finished deployment ended: it is not begun again, unless it was withdrawn, or the server asks for
   * another attempt at what did not commit.
   */
  last: z
    .object({
      deployment: Id,
      outcome: z.enum(['committed', 'reverted', 'failed', 'withdrawn']),
      attempt: z.number().int().optional(),
    })
    .nullable(),
  /** The highest security counter ever committed. */
  floor: z.number().int().min(0),
  /** Numbers of reports and receipts up to this one may have been used. */
  reportSeq: z.number().int().min(0),
});
export type Memory = z.infer<typeof Memory>;

/** `stepInstall` with what it does to the rest of the memory. The very same memory comes back when nothing changes. */
export const stepMemory = (memory: Memory, event: InstallEvent): { next: Memory; effects: Effect[] } => {
  const now = memory.install;
  const endedBefore =
    event.kind === 'offered' &&
    memory.last?.deployment === event.offer.install.deployment &&
    memory.last.outcome !== 'withdrawn' &&
    // What is committed runs: a server that asks for another attempt has not heard of it yet.
    (memory.last.outcome === 'committed' || (event.offer.install.attempt ?? 1) <= (memory.last.attempt ?? 1));
  const { next, effects } = endedBefore ? { next: now, effects: [] } : stepInstall(now, event);
  const desiredSeq = seenSeq(now, event) ?? memory.desiredSeq;
  if (next === now && desiredSeq <= memory.desiredSeq) return { next: memory, effects };
  const { hookRuns, ...kept } = memory;
  return {
    next: {
      ...kept,
      ...(hookRuns === undefined || next.state === 'idle' ? {} : { hookRuns }),
      install: next,
      desiredSeq: Math.max(memory.desiredSeq, desiredSeq),
      // Only a committed version may raise it: a trial that reverts must be able to go back.
      floor: next.state === 'committed' ? Math.max(memory.floor, next.offer.install.securityCounter) : memory.floor,
      last:
        next.state === 'reported'
          ? {
              deployment: next.offer.install.deployment,
              outcome: next.outcome,
              ...attemptOf(next),
            }
          : memory.last,
    },
    effects,
  };
};

/**
 * Which document an event settles. One that comes too early or too late for the state is looked at again in the next.
 */
const seenSeq = (now: InstallState, event: InstallEvent): number | undefined => {
  const takes = now.state === 'idle' || isBeforeActivation(now);
  if (!takes) return undefined;
  if (event.kind === 'withdrawn') return event.seq;
  if (event.kind === 'offered') return now.state === 'idle' ? event.offer.seq : undefined;
  return event.kind === 'renewed' ? event.offer.seq : undefined;
};
