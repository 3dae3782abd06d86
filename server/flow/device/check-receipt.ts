/** Is this really the device's own signed word, about something that it was really asked to do? */

import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { RolloutPlan } from '#server/domain/rollout/rollout.ts';
import type { DeviceRecord } from '#server/store/devices.ts';
import { Receipt } from '#shared/deployment.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { Signed } from '#shared/messages.ts';
import type { Policy } from '#shared/policy.ts';
import { ed25519PublicKey, keyIdOf, verifySignature } from '#shared/trust/keys.ts';

/** What a rollout is about, with the manifest of each compatible. */
export type PlanFacts = { product: Id; version: string; policy: Policy; plan: RolloutPlan; manifests: Map<Id, Sha256> };

type Checked = { ok: true; receipt: Receipt } | { ok: false; why: string };

export const parseReceipt = (signed: Signed): Receipt | undefined => {
  try {
    return Receipt.safeParse(JSON.parse(signed.payload)).data;
  } catch {
    return undefined;
  }
};

/** Is it a receipt that this very device signed? */
const checkReceipt = (signed: Signed, device: DeviceRecord): Checked => {
  const receipt = parseReceipt(signed);
  if (receipt === undefined) return { ok: false, why: 'the receipt is not of the expected form' };
  if (receipt.device !== device.id) return { ok: false, why: 'the receipt names another device' };
  const key = ed25519PublicKey(device.publicKey);
  if (signed.keyId !== keyIdOf(key)) return { ok: false, why: 'the receipt is not signed with the key of this device' };
  if (!verifySignature(key, signed.payload, signed.sig)) return { ok: false, why: 'the signature does not verify' };
  return { ok: true, receipt };
};

/** Each once, in the order in which the device made them, however they came; those that are none last. */
export const inOrder = (receipts: Signed[], device: DeviceRecord): { signed: Signed; checked: Checked }[] =>
  [...new Map(receipts.map((signed) => [signed.payload + signed.sig, signed])).values()]
    .map((signed) => ({ signed, checked: checkReceipt(signed, device) }))
    .sort((a, b) => seqOf(a.checked) - seqOf(b.checked));
const seqOf = (checked: Checked): number => (checked.ok ? checked.receipt.seq : Number.MAX_SAFE_INTEGER);

/** A receipt must be about something that this device was really asked to do. */
export const fits = (
  receipt: Receipt,
  facts: { deployments: Map<Id, DeploymentRecord>; plans: Map<Id, PlanFacts> },
): { ok: true; receipt: Receipt; deployment: DeploymentRecord; plan: PlanFacts } | { ok: false; why: string } => {
  const deployment = facts.deployments.get(receipt.deployment);
  const plan = deployment === undefined ? undefined : facts.plans.get(deployment.rollout);
  if (deployment === undefined || plan === undefined) return { ok: false, why: 'the deployment is not known' };
  if (deployment.device !== receipt.device) return { ok: false, why: 'the deployment is of another device' };
  if (deployment.rollout !== receipt.rollout) return { ok: false, why: 'the deployment is of another rollout' };
  if (plan.product !== receipt.product || plan.version !== receipt.version) {
    return { ok: false, why: 'the receipt is about another release' };
  }
  if (plan.manifests.get(deployment.compatible) !== receipt.manifest) {
    return { ok: false, why: 'the receipt is about another manifest' };
  }
  if (deployment.offeredAt === null) return { ok: false, why: 'the deployment was never offered' };
  const misses = receipt.outcome === 'committed' ? missesProof(receipt) : undefined;
  return misses === undefined ? { ok: true, receipt, deployment, plan } : { ok: false, why: misses };
};

/** Committed means: *that* release runs now, by the device's own signed word. */
const missesProof = (receipt: Receipt): string | undefined =>
  receipt.running?.product === receipt.product &&
  receipt.running.version === receipt.version &&
  receipt.running.manifest === receipt.manifest
    ? undefined
    : 'the receipt says committed, but that another release runs';
