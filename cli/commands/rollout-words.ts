/** A rollout, its devices and its place in the queue as people read them. */
import type { z } from 'zod';
import { DID } from '#shared/deployment.ts';
import type { CohortPlan } from '#shared/policy.ts';
import type { DeploymentView, QueuedView, RolloutView } from '#shared/views.ts';
import { type Cell, facts, formatTime, paint, table } from '../terminal.ts';
import { timingFacts } from '../timing-words.ts';
import { describeRecall } from './recall.ts';

export const stateOf = ({ state }: RolloutView): { text: string; paint: (text: string) => string } => {
  const colour = { running: paint.cyan, completed: paint.green, halted: paint.red, aborted: paint.red } as Record<
    string,
    typeof paint.red
  >;
  return { text: state, paint: colour[state] ?? paint.yellow };
};
/** `2 silent in trial, 1 never-heard`. */
const overdueOf = (overdue: RolloutView['overdue']): string =>
  overdue
    .map((one) => `${one.devices} ${one.class}${one.class === 'never-heard' ? '' : ` in ${one.reached}`}`)
    .join(', ');
export const placeOf = ({ state, overdue, reached }: DeploymentView): string =>
  overdue === null ? state : `${state}, ${overdue}${overdue === 'never-heard' ? '' : ` in ${reached}`}`;
/** `committed 6, trial 2`: only the states that someone is in. */
export const countsOf = (counts: RolloutView['counts']): string =>
  Object.entries(counts)
    .filter(([, devices]) => devices > 0)
    .map(([state, devices]) => `${state} ${devices}`)
    .join(', ');
const plansOf = (plans: z.output<typeof CohortPlan>[]): string =>
  plans
    .map(
      ({ cohort, waves }) =>
        `${cohort}=${waves.map((wave) => ('count' in wave ? wave.count : `${wave.percent}%`)).join(',')}`,
    )
    .join(' ');

/** A device that waits for another attempt. */
export const againOf = ({ state, attempts }: DeploymentView): string =>
  state !== 'planned' || attempts === null || attempts.notBefore === null
    ? ''
    : ` (attempt ${attempts.ended + 1} from ${formatTime(attempts.notBefore)})`;

export const describeRollout = (rollout: RolloutView): string => {
  const pairs: [string, Cell][] = [
    ['rollout', { text: rollout.id, paint: paint.bold }],
    ['release', `${rollout.release} in ${rollout.channel}`],
    ['state', stateOf(rollout)],
    ['why', rollout.explanation],
    ['cohorts', plansOf(rollout.cohorts)],
    ...timingFacts(rollout),
    ['devices', `${rollout.devices}: ${countsOf(rollout.counts)}; ${rollout.untouched} untouched`],
    ...(rollout.overdue.length === 0 ? [] : [['overdue', overdueOf(rollout.overdue)] satisfies [string, Cell]]),
    ['created', `${formatTime(rollout.createdAt)} by ${rollout.createdBy}`],
  ];
  // People count waves from 1, as the explanation does; JSON keeps the API's index.
  const rows = rollout.waves.map((wave, index): Cell[] => [
    index + 1,
    wave.devices,
    index === rollout.wave ? { text: countsOf(wave.counts), paint: paint.cyan } : countsOf(wave.counts),
  ]);
  return `${facts(pairs)}\n\n${table(['WAVE', 'DEVICES', 'STATES'], rows)}${describeRecall(rollout)}`;
};

const NAMED_MAX = 20;
/** Which devices have done what so far. */
export const describeDid = (deployments: DeploymentView[]): string => {
  const rows = DID.map((did): Cell[] => {
    const devices = deployments.filter((one) => one.did === did).map(({ device }) => device);
    const more = devices.length > NAMED_MAX ? `, and ${devices.length - NAMED_MAX} more` : '';
    return [did, devices.length, `${devices.slice(0, NAMED_MAX).join(', ')}${more}`];
  });
  return table(
    ['DID', 'DEVICES', 'WHICH'],
    rows.filter(([, devices]) => devices !== 0),
  );
};

export const waitsOf = ({ waitsFor, coolingDown }: z.infer<typeof QueuedView>): string =>
  [
    ...waitsFor.map(({ rollout, devices }) => `${devices} with ${rollout}`),
    ...(coolingDown === null ? [] : [`${coolingDown.devices} cooling down until ${formatTime(coolingDown.next)}`]),
  ].join(', ');
