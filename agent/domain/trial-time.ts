/**
 * How much of its deadline a trial has used: not by the device's clock, which is set when the network comes, by years
 * where no battery keeps it, but by the machine's uptime, which no one sets, and which begins again with every boot.
 */
import type { Uptime } from '#shared/machine-uptime.ts';

/**
 * Never more than has really passed, whatever the clock did. What an earlier boot used is forgotten, since nothing
 * tells how long the machine was off: each boot has at most one deadline for the trial, and how often a trial boots has
 * a limit of its own.
 */
export const trialUsedMs = (
  trial: { since: number; began?: Uptime | undefined },
  present: Uptime & { wall: number },
): number => {
  const { began } = trial;
  // Recorded by an agent that knew only the clock.
  if (began === undefined) return Math.min(Math.max(0, present.wall - trial.since), present.uptimeMs);
  const sameBoot = began.bootId === present.bootId && began.uptimeMs <= present.uptimeMs;
  return sameBoot ? present.uptimeMs - began.uptimeMs : present.uptimeMs;
};
