/**
 * When the agent of a committed version has proven that it may be started again, as often as need be: after minutes of
 * life, or some time after it reached its server. Not before: one that crashes a second after its start, or as soon as
 * it is connected, has proven nothing.
 */
import { forgetStarts, LAUNCH_ENVIRONMENT } from './launch.ts';

/** Devices may be offline for weeks, and agents of theirs are fine. */
const LIFE_MS = 5 * 60_000;
const CONTACT_MS = 60_000;
const LOOK_MS = 1_000;

export type ComingUpOptions = {
  dataDir: string;
  env: Record<string, string | undefined>;
  /** Whether the server hears this agent now. */
  contact: () => boolean;
  limits?: { lifeMs: number; contactMs: number; lookMs: number };
};

/** `stopped` is called when the agent ends because it was told to: that start is no crash either. */
export const watchComingUp = (options: ComingUpOptions): { stopped(): Promise<void> } => {
  const { dataDir, env, contact, limits = { lifeMs: LIFE_MS, contactMs: CONTACT_MS, lookMs: LOOK_MS } } = options;
  const isLaunched = env[LAUNCH_ENVIRONMENT.builtIn] !== undefined;
  // The installed agent that runs in place of another proves nothing about that one.
  if (!isLaunched || env[LAUNCH_ENVIRONMENT.gaveWay] !== undefined) return { stopped: async () => undefined };
  const began = performance.now();
  let reachedAt: number | undefined;
  const forget = (): Promise<void> => {
    clearInterval(looking);
    return forgetStarts(dataDir);
  };
  const looking = setInterval(() => {
    const now = performance.now();
    if (contact()) reachedAt ??= now;
    const isProven = now - began >= limits.lifeMs || (reachedAt !== undefined && now - reachedAt >= limits.contactMs);
    if (isProven) void forget();
  }, limits.lookMs).unref();
  return { stopped: forget };
};
