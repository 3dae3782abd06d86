/** A person recalls a rollout: recorded with it, and then enacted from that record. */

import { type Channel, findChannel } from '#server/domain/release/channel.ts';
import { recalledOf, sortRecall } from '#server/domain/rollout/recall.ts';
import type { Recalled } from '#server/domain/rollout/rollout.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import { type Id, releaseRef } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { DEVICES_AT_ONCE, destinationOf } from './enact-recall.ts';
import { applyEvent, type RunDeps, runRollout } from './run-rollout.ts';

type To = NonNullable<Recalled['to']>;
/** `nobodyLeft`: it was recalled before, and all who could be sent back were. */
type Recall = { rollout: RolloutRecord; nobodyLeft: boolean };

/**
 * Only of what was halted, aborted or completed. Recalling again looks again at the devices that have not gone back.
 * Refusals: `not-found` (rollout, release), `conflict` (not possible in its state; `to` is not to be had, or the
 * security floor forbids it to everyone).
 */
export const recallRollout = async (
  deps: RunDeps & { channels: readonly Channel[] },
  input: { rollout: Id; note: string; by: string; to?: string | undefined },
): Promise<Result<Recall>> => {
  const record = await deps.store.getRollout(input.rollout);
  if (record === undefined) return refuse('not-found', `there is no rollout ${input.rollout}`);
  let to: To | undefined;
  if (input.to !== undefined) {
    const found = await findTo(deps, record, input.to);
    if (!found.ok) return found;
    to = found.value;
  }
  const before = recalledOf(record.progress);
  const nobodyLeft = before !== undefined && !(await isAnybodyLeft(deps, record, before));
  // Another place to go is for those who commit late.
  if (nobodyLeft && before.to?.version === to?.version) return accept({ rollout: record, nobodyLeft });
  const { by, note } = input;
  const event = { kind: 'recall' as const, by, note, ...(to === undefined ? {} : { to }) };
  const recalled = await applyEvent(deps, input.rollout, event);
  if (!recalled.ok) return recalled;
  // What is due now is done now, so that the answer shows where it leads.
  const run = await runRollout(deps, input.rollout);
  return run.ok ? accept({ rollout: run.value, nobodyLeft }) : run;
};

/** A device that was found not to go back may by now, so all of them are looked at that were decided until now. */
const isAnybodyLeft = async (
  { store, now }: Pick<RunDeps, 'store' | 'now'>,
  { plan }: RolloutRecord,
  { at }: Recalled,
): Promise<boolean> => (await store.listRecallable(plan.id, Math.max(now(), at + 1), 1)).length > 0;

const findTo = async (
  { store, channels, now }: RunDeps & { channels: readonly Channel[] },
  record: RolloutRecord,
  version: string,
): Promise<Result<To>> => {
  const { plan } = record;
  const name = releaseRef(plan.product, version);
  if (version === plan.version) return refuse('conflict', `${name} is what the rollout brought`);
  const release = await store.getRelease(plan.product, version);
  if (release === undefined) return refuse('not-found', `there is no release ${name}`);
  const destination = destinationOf(release, plan.channel);
  if (destination.state === 'withdrawn') return refuse('conflict', `${name} was withdrawn`);
  const { channel } = destination;
  const place = channel === null ? undefined : findChannel(channels, channel);
  if (channel === null || place === undefined)
    return refuse('conflict', `${name} is not staged in any channel; stage it first`);
  // The floor only keeps devices from going back: with all of them below it, nothing would be offered to anyone.
  const devices = await store.listRecallable(plan.id, now(), DEVICES_AT_ONCE);
  const { stays } = sortRecall(devices, [], destination);
  if (devices.length > 0 && stays.length === devices.length && stays.every(({ reason }) => reason === 'below-floor')) {
    const counter = Math.max(...destination.bundles.map(({ securityCounter }) => securityCounter));
    return refuse(
      'conflict',
      `the security floor forbids it: ${name} has the security counter ${counter}, and all ${devices.length} devices have committed a higher one`,
    );
  }
  return accept({ version, channel, approvals: place.channel.rolloutApprovals });
};
