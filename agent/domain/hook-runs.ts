/**
 * How often each hook of a deployment was begun. A hook may end the agent or reboot the device, at once or a moment
 * after it has ended well; it is counted before it runs, so that the one that always does this runs a few times, and
 * the deployment still comes to its end.
 */
import { z } from 'zod';

/** `hook` is its index in the manifest. `good`: it has ended well once. */
export const HookRuns = z
  .array(z.object({ hook: z.number().int().min(0), runs: z.number().int().min(0), good: z.boolean() }))
  .max(16);
export type HookRuns = z.infer<typeof HookRuns>;

export const HOOK_RUNS_MAX = 3;

const NEVER = { runs: 0, good: false };
const runsOf = (known: HookRuns, hook: number) => known.find((one) => one.hook === hook) ?? { hook, ...NEVER };
const withRuns = (known: HookRuns, mine: HookRuns[number]): HookRuns => [
  ...known.filter(({ hook }) => hook !== mine.hook),
  mine,
];

/** `skip`: it has done its work, and would only go on ending the agent. `refuse`: it has never got to its end. */
export const mayRunHook = (known: HookRuns, hook: number): 'run' | 'skip' | 'refuse' => {
  const { runs, good } = runsOf(known, hook);
  if (runs < HOOK_RUNS_MAX) return 'run';
  return good ? 'skip' : 'refuse';
};

export const begunHook = (known: HookRuns, hook: number): HookRuns => {
  const { runs, good } = runsOf(known, hook);
  return withRuns(known, { hook, runs: runs + 1, good });
};

/** `later`: it may ask for that as often as it likes. */
export const endedHook = (known: HookRuns, hook: number, how: 'good' | 'later'): HookRuns => {
  const { runs, good } = runsOf(known, hook);
  return withRuns(known, how === 'good' ? { hook, runs, good: true } : { hook, runs: Math.max(0, runs - 1), good });
};
