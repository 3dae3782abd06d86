/**
 * Devices that run what no one told them to run. What a device should run is what it last committed or reverted to, or
 * what was adopted; before any of these, what it ran when it was first heard. Pure.
 */
import type { DeploymentState, Running } from '#shared/deployment.ts';
import { type Id, type Millis, releaseRef, type Sha256 } from '#shared/ids.ts';
import { type AuditEvent, byDevice } from '../audit.ts';

/** A device that drifts to and fro must not fill the log. */
const TOLD_EVERY_MS = 3_600_000;

/** `deployment`: the one that owns it; while there is one the device runs what that says, or is on its way there. */
export type Drifting = {
  device: Id;
  running: Running;
  /** Null before it was first heard. */
  expected: Running | null;
  driftedAt: Millis | null;
  /** When the log last said so. */
  toldAt: Millis | null;
  deployment: Id | null;
};

/** The deployment that a device is on trial of, by its own report, and the manifest that belongs to it. */
export type Trial = { id: Id; state: DeploymentState; offeredAt: Millis | null; manifest: Sha256 | null };

/**
 * A device that runs what the server gave it, and has given up since (overdue, withdrawn), was told to: its outcome is
 * still to come.
 */
const isExcused = ({ running }: Drifting, trial: Trial | undefined): boolean =>
  trial !== undefined &&
  trial.offeredAt !== null &&
  trial.manifest === running.manifest &&
  !['committed', 'reverted', 'failed', 'skipped'].includes(trial.state);

const drifts = (device: Drifting, trial: Trial | undefined): boolean =>
  !isExcused(device, trial) &&
  device.deployment === null &&
  device.expected !== null &&
  device.running.manifest !== device.expected.manifest;

const named = ({ product, version }: Running): string => releaseRef(product, version);

/** After a report of what the device runs. Undefined where nothing changes. */
export const stepDrift = (
  device: Drifting,
  trial: Trial | undefined,
  at: Millis,
): { next: Drifting; audit: AuditEvent[] } | undefined => {
  const { expected, driftedAt } = device;
  if (expected === null) return { next: { ...device, expected: device.running }, audit: [] };
  if (!drifts(device, trial))
    return driftedAt === null
      ? undefined
      : { next: { ...device, driftedAt: null }, audit: lineOfEnd(device, expected, trial, at) };
  if (isToTell(device, at))
    return { next: { ...device, driftedAt: driftedAt ?? at, toldAt: at }, audit: lineOfDrift(device, expected, at) };
  return driftedAt === null ? { next: { ...device, driftedAt: at }, audit: [] } : undefined;
};

/** When it begins, unless the log said so within the hour; then an hour after that, if it goes on. */
const isToTell = ({ driftedAt, toldAt }: Drifting, at: Millis): boolean => {
  if (driftedAt === null) return toldAt === null || toldAt > at || toldAt <= at - TOLD_EVERY_MS;
  return toldAt !== null && toldAt < driftedAt && toldAt <= at - TOLD_EVERY_MS;
};

const lineOfDrift = ({ device, running }: Drifting, expected: Running, at: Millis): AuditEvent[] => [
  { at, by: byDevice(device), kind: 'device-drifted', device, expected: named(expected), running: named(running) },
];

/** Only of a drift that the log knows of. Where the device does not run what it should, a deployment is why. */
const lineOfEnd = (
  { device, running, driftedAt, toldAt, deployment }: Drifting,
  expected: Running,
  trial: Trial | undefined,
  at: Millis,
): AuditEvent[] => {
  if (driftedAt === null || toldAt === null || toldAt < driftedAt) return [];
  const isBack = named(running) === named(expected);
  const because = isBack ? null : (deployment ?? trial?.id ?? null);
  return [{ at, by: byDevice(device), kind: 'drift-ended', device, running: named(running), deployment: because }];
};
