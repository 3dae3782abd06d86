/**
 * The words for one deployment, as the server keeps them and as the agent reports them. `docs/states.md` tells
 * the story.
 */
import { z } from 'zod';
import { Id, Millis, Sha256, text, Version } from './ids.ts';

/** Where the agent's install state machine is. */
export const AGENT_STATES = [
  'accepted',
  'waiting',
  'fetching',
  'verified',
  'ready',
  'activating',
  'trial',
  'committing',
  'committed',
  'reverting',
  'verifying-revert',
  'reverted',
  'failed',
  'withdrawn',
] as const;
export type AgentState = (typeof AGENT_STATES)[number];

/**
 * Where the server believes a deployment is. `planned`: chosen, not yet offered. `skipped`: the device ran the release
 * already. `overdue`: past its deadline; a late report reclassifies it.
 */
export const DEPLOYMENT_STATES = [
  'planned',
  'offered',
  'fetching',
  'installing',
  'ready',
  'trial',
  'committed',
  'reverted',
  'failed',
  'withdrawn',
  'overdue',
  'skipped',
] as const;
export type DeploymentState = (typeof DEPLOYMENT_STATES)[number];

/**
 * Why a deployment is overdue. `never-heard`: the device did not accept its offer; no failure (docs/decisions/0003).
 * `silent`: it accepted, and is not heard any more. `stuck`: it is heard, and does not get on.
 */
export const OVERDUE_CLASSES = ['never-heard', 'silent', 'stuck'] as const;
export type OverdueClass = (typeof OVERDUE_CLASSES)[number];

/** What a device has done so far about its offer, also where the offer was withdrawn since. */
export const DID = [
  'nothing',
  'accepted',
  'fetching',
  'installed',
  'on-trial',
  'committed',
  'reverted',
  'failed',
  'skipped',
  'unknown',
] as const;
export type Did = (typeof DID)[number];

/** How a deployment ended, as the device signs it. */
export const OUTCOMES = ['committed', 'reverted', 'failed', 'withdrawn'] as const;
export type Outcome = (typeof OUTCOMES)[number];

/** Every reason for which an agent refuses, fails or reverts; the first ones in the order in which they are checked. */
export const DEVICE_ERRORS = [
  'TIME_UNTRUSTED',
  'ROOT_FORMAT',
  'ROOT_SIGNATURE',
  'ROOT_ROLLBACK',
  'ROOT_EXPIRED',
  'TIMESTAMP_UNAVAILABLE',
  'TIMESTAMP_FORMAT',
  'TIMESTAMP_SIGNATURE',
  'TIMESTAMP_ROLLBACK',
  'TIMESTAMP_EXPIRED',
  'SNAPSHOT_UNAVAILABLE',
  'SNAPSHOT_FORMAT',
  'SNAPSHOT_MISMATCH',
  'SNAPSHOT_SIGNATURE',
  'SNAPSHOT_ROLLBACK',
  'SNAPSHOT_EXPIRED',
  'TARGETS_UNAVAILABLE',
  'TARGETS_FORMAT',
  'TARGETS_MISMATCH',
  'TARGETS_SIGNATURE',
  'TARGETS_EXPIRED',
  'INSTRUCTION_FORMAT',
  'INSTRUCTION_SIGNATURE',
  'INSTRUCTION_PROOF',
  'INSTRUCTION_NOT_FOR_ME',
  'INSTRUCTION_REPLAY',
  'INSTRUCTION_EXPIRED',
  'DELEGATED_UNAVAILABLE',
  'DELEGATED_FORMAT',
  'DELEGATED_MISMATCH',
  'DELEGATED_SIGNATURE',
  'DELEGATED_EXPIRED',
  'TARGET_NOT_FOUND',
  'DIRECTOR_IMAGE_MISMATCH',
  'MANIFEST_FORMAT',
  'INCOMPATIBLE_HARDWARE',
  'DOWNGRADE',
  'PRECONDITION',
  'NO_SPACE',
  'SLOW_RETRIEVAL',
  'ENDLESS_DATA',
  'FETCH_FAILED',
  'TARGET_HASH',
  'WRITE_FAILED',
  'WRITE_VERIFY',
  'HOOK_FAILED',
  'SELFTEST_FAILED',
  'TRIAL_CRASHED',
  'TRIAL_DEADLINE',
  'REVERT_FAILED',
  'JOURNAL_LOST',
  'TRANSITIONS_EXCEEDED',
  /** The server's answer, not the agent's: the device committed, and did not do well afterwards. */
  'REGRESSED',
] as const;
export type DeviceErrorCode = (typeof DEVICE_ERRORS)[number];

export const DeviceError = z.object({ code: z.enum(DEVICE_ERRORS), message: text(1024) });
export type DeviceError = z.infer<typeof DeviceError>;

/** What a device runs, by its own report. */
export const Running = z.object({ product: Id, version: Version, manifest: Sha256, slot: z.enum(['a', 'b']) });
export type Running = z.infer<typeof Running>;

/** The proof of delivery: signed by the device over exactly these bytes, kept as they are in the audit log. */
export const Receipt = z.object({
  type: z.literal('sluice/receipt/1'),
  device: Id,
  deployment: Id,
  rollout: Id,
  product: Id,
  version: Version,
  manifest: Sha256,
  outcome: z.enum(OUTCOMES),
  /** As in its instruction: from the second time on that the deployment was offered. */
  attempt: z.number().int().min(2).optional(),
  error: DeviceError.optional(),
  /** What the device runs now, after the outcome; null when it runs nothing. */
  running: Running.nullable(),
  boot: Id,
  /** The device's own strictly growing number. */
  seq: z.number().int().min(1),
  at: Millis,
});
export type Receipt = z.infer<typeof Receipt>;
