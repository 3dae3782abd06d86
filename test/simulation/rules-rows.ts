/** What must hold of each deployment whenever it moves. */

import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { owns } from '#server/domain/deployment/deployment.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import { Receipt } from '#shared/deployment.ts';
import { Id } from '#shared/ids.ts';
import { Signed } from '#shared/messages.ts';
import type { PublicKey } from '#shared/trust/keys.ts';
import { verifySigned } from '#shared/trust/signed.ts';
import type { World } from './world.ts';

/** A line of the audit log. */
export type Event = {
  kind: string;
  at: number;
  by: string;
  rollout?: string;
  deployment?: string;
  device?: string;
  devices?: string[];
  from?: string;
  to?: string;
  [member: string]: unknown;
};

/** What is remembered of a deployment beyond its newest row. */
export type Seen = {
  row: DeploymentRecord;
  /** It was committed once, whatever became of it. */
  committed: boolean;
  /**
   * No one offered it what it does now: it came back by its own report (its withdrawal came too late, it was given up),
   * or was let go on from a wait. Limits on offers cannot hold it back.
   */
  returned: boolean;
  /** Not to be offered again before, by the policy and the failures that were seen. */
  coolUntil: number;
};

/** Every state change has, in the same transaction, a line of the audit log that names it. */
export const checkAudited = (world: World, before: DeploymentRecord, row: DeploymentRecord, events: Event[]): void => {
  world.tell(`deployment ${row.id} of ${row.device}: ${before.state} -> ${row.state}`);
  const named = events.filter((event) => event.rollout === row.rollout || event.deployment === row.id);
  const told = named.some(
    (event) =>
      event.deployment === row.id || event.device === row.device || event.devices?.includes(row.device) === true,
  );
  // No one was told of a planned deployment, so the line about its rollout is enough.
  const ended = before.state === 'planned' && row.state === 'withdrawn' && named.length > 0;
  if (!told && !ended)
    world.violate(`deployment ${row.id} went from ${before.state} to ${row.state} without a line in the audit log`);
  for (const event of named)
    if (event.kind === 'deployment-moved' && event.deployment === row.id && event.from === event.to)
      world.violate(`deployment ${row.id}: the audit log says that nothing moved`);
};

/** Every success has a valid receipt of the device, for just this release, in the audit log. */
export const checkProven = (world: World, row: DeploymentRecord, events: Event[]): void => {
  const proof = events.find((event) => event.kind === 'receipt' && event.deployment === row.id);
  const receipt = proof === undefined ? undefined : Receipt.parse(JSON.parse(Signed.parse(proof['receipt']).payload));
  const release = receipt === undefined ? undefined : world.releases.get(receipt.version);
  if (
    receipt?.outcome !== 'committed' ||
    receipt.device !== row.device ||
    receipt.running?.manifest !== release?.manifests.get(row.compatible)
  )
    world.violate(`deployment ${row.id} counts as committed without a receipt that proves it`);
};

export const checkReceipt = (
  world: World,
  keyOf: (device: Id) => PublicKey,
  receipts: Set<string>,
  event: Event,
): void => {
  const signed = Signed.parse(event['receipt']);
  receipts.add(signed.payload);
  if (event.device === undefined || !verifySigned(signed, keyOf(Id.parse(event.device))))
    world.violate(`a receipt in the audit log was not signed by ${event.device}`);
};

/** Two rollouts never own a device at once, but where one of them had to believe a device that it had given up. */
export const checkOneOwner = (world: World, seen: Seen, all: Iterable<Seen>): void => {
  if (!owns(seen.row) || seen.returned) return;
  for (const other of all)
    if (other !== seen && other.row.device === seen.row.device && owns(other.row) && !other.returned)
      world.violate(`${seen.row.device} is owned by both ${seen.row.id} and ${other.row.id}`);
};

/**
 * A device that failed for a cause outside of the release is not offered it again before its cool-down is over, and not
 * too often.
 */
export const checkCool = (world: World, seen: Seen, offeredAt: number): void => {
  if (offeredAt < seen.coolUntil)
    world.violate(`${seen.row.id} is offered again ${seen.coolUntil - offeredAt} ms before its cool-down is over`);
};

/** When the device may be offered it again after this failure: the policy's cool-down, twice as long each time. */
export const coolUntil = (row: DeploymentRecord, events: Event[], record: RolloutRecord | undefined): number => {
  const retry = events.find((event) => event.kind === 'retry-planned' && event.deployment === row.id);
  const retries = record?.plan.policy.retries;
  if (retry === undefined || retries === undefined) return 0;
  const earlier = Math.max(0, (row.attempts?.failed ?? 0) - 1);
  const factor = retry['error'] === 'INSTRUCTION_EXPIRED' ? 1 : 2 ** earlier;
  return retry.at + retries.coolDownMs * factor;
};

/** What came back by the device's own word, or goes on after a wait. */
export const isReturn = (before: DeploymentRecord, row: DeploymentRecord): boolean => {
  if (row.state === 'offered' && before.state === 'planned') return false;
  const wasGivenUp = !owns(before);
  const wasHeld = before.heldUntil !== null && row.heldUntil === null;
  return owns(row) && (wasGivenUp || wasHeld);
};
