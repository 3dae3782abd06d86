/** A person resumes a rollout, and says which failures no longer count. */

import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { outcomeOf } from '#server/domain/deployment/deployment.ts';
import { failuresAmong, namedIn } from '#server/domain/rollout/acknowledge.ts';
import type { RolloutEvent } from '#server/domain/rollout/rollout-events.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import type { DeploymentState } from '#shared/deployment.ts';
import type { Id } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { everyPage } from '../every-page.ts';
import { enactRecall } from './enact-recall.ts';
import { applyEvent, type RunDeps, runRollout } from './run-rollout.ts';

const FAILING: readonly DeploymentState[] = ['reverted', 'failed', 'overdue'];
/** More are acknowledged by number alone: each name is kept with the rollout. */
const NAMED_MAX = 5_000;

type Input = { rollout: Id; note: string; by: string; acknowledge?: 'all' | Id[] | undefined };

/**
 * After a halt without `acknowledge`: all failures up to now. Refusals: `not-found`, `conflict` (not possible in its
 * state), `invalid-request` (no note after a halt; a named device has not failed).
 */
export const resumeRollout = async (deps: RunDeps, input: Input): Promise<Result<RolloutRecord>> => {
  const record = await deps.store.getRollout(input.rollout);
  if (record === undefined) return refuse('not-found', `there is no rollout ${input.rollout}`);
  const chosen = await choose(deps.store, record, input.acknowledge);
  if (!chosen.ok) return chosen;
  const { by, note } = input;
  const event: RolloutEvent = { kind: 'resume', by, note, ...chosen.value };
  // Whether anyone goes back is known only when the recall was enacted.
  await enactRecall(deps, input.rollout);
  const resumed = await applyEvent(deps, input.rollout, event);
  // What is due now is done now, so that the answer shows where it leads.
  return resumed.ok ? runRollout(deps, input.rollout) : resumed;
};

type Chosen = Pick<Extract<RolloutEvent, { kind: 'resume' }>, 'acknowledge'>;

const choose = async (
  store: Pick<Store, 'listDeployments'>,
  { plan, progress }: RolloutRecord,
  wanted: Input['acknowledge'],
): Promise<Result<Chosen>> => {
  if (wanted === undefined && progress.state !== 'halted') return accept({});
  const failing = await failuresOf(store, plan.id);
  const before = new Set('acknowledged' in progress ? namedIn(progress.acknowledged ?? []) : []);
  const names = Array.isArray(wanted) ? new Set(wanted) : undefined;
  const chosen =
    names === undefined ? failing : failing.filter(({ id, device }) => names.has(device) || before.has(id));
  const strangers = [...(names ?? [])].filter((name) => !failing.some(({ device }) => device === name));
  if (strangers.length > 0)
    return refuse(
      'invalid-request',
      `${strangers.slice(0, 5).join(', ')}: no failure in rollout ${plan.id} to acknowledge`,
    );
  if (chosen.length > NAMED_MAX) {
    return names === undefined ? accept({}) : refuse('invalid-request', `at most ${NAMED_MAX} devices can be named`);
  }
  const news = chosen.filter(({ id }) => !before.has(id)).map(({ device }) => device);
  return accept({ acknowledge: { failures: failuresAmong(chosen), devices: news } });
};

const failuresOf = async (store: Pick<Store, 'listDeployments'>, rollout: Id): Promise<DeploymentRecord[]> => {
  const all: DeploymentRecord[] = [];
  for (const state of FAILING) {
    const pages = everyPage(
      (page) => store.listDeployments({ rollout, state }, page),
      ({ id }) => id,
    );
    for await (const one of pages) if (outcomeOf(one) === 'failed') all.push(one);
  }
  return all;
};
