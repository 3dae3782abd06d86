/** What a policy says about time and order, in words; only what is not as usual. */
import type { CohortPlan, Policy } from '#shared/policy.ts';
import type { MaintenanceWindow } from '#shared/windows.ts';
import { formatTime } from './terminal.ts';

const minutes = (ms: number): string => (ms % 3_600_000 === 0 ? `${ms / 3_600_000}h` : `${Math.round(ms / 60_000)}m`);
/** As `--window` takes it. */
const windowWords = ({ cron, durationMs, timeZone, ofDevice }: MaintenanceWindow): string =>
  `"${cron} for ${minutes(durationMs)} ${ofDevice ? '' : 'only '}in ${timeZone}"`;

const activationWords = ({ activation, confirm }: Policy, rollout: string, activatedAt: number | null): string => {
  if (activatedAt !== null) return `told to at ${formatTime(activatedAt)}`;
  const when =
    activation === 'on-command'
      ? `when told: sluice rollout activate ${rollout}`
      : `at ${formatTime(Number(activation))}`;
  const unasked = (confirm ?? (activation === 'on-command' ? 'required' : 'when-reachable')) === 'when-reachable';
  return unasked ? `${when}, also where the server cannot be reached` : when;
};

type Timed = { id: string; policy: Policy; cohorts: CohortPlan[]; activatedAt: number | null };

export const timingFacts = ({ id, policy, cohorts, activatedAt }: Timed): [string, string][] => {
  const windows = [
    ...policy.windows.map(windowWords),
    ...cohorts.flatMap(({ cohort, windows: own }) => (own ?? []).map((one) => `${cohort}: ${windowWords(one)}`)),
  ];
  const followed = cohorts.filter(({ follow }) => follow === true).map(({ cohort }) => cohort);
  return [
    ...(policy.priority === 50 ? [] : [['priority', String(policy.priority)] satisfies [string, string]]),
    ...(windows.length === 0 ? [] : [['windows', windows.join(', ')] satisfies [string, string]]),
    ...(policy.activation === 'at-once'
      ? []
      : [['activation', activationWords(policy, id, activatedAt)] satisfies [string, string]]),
    ...(followed.length === 0 ? [] : [['follows', followed.join(', ')] satisfies [string, string]]),
  ];
};
