/** What operators do to single devices: let in, shut out, tag, and hand out enrolment tokens. */
import { randomBytes } from 'node:crypto';
import { auditLine } from '#server/domain/audit.ts';
import type { DeviceRecord } from '#server/store/devices.ts';
import type { Store } from '#server/store/store.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import type { DeviceLink } from './device-link.ts';

const TAGS_MAX = 64;

export const acceptDevice = async (
  deps: { store: Pick<Store, 'setDeviceState'>; now: () => number },
  input: { device: Id; by: string },
): Promise<Result<DeviceRecord>> => {
  const at = deps.now();
  const line = auditLine({ at, by: input.by, kind: 'device-accepted', device: input.device });
  return known(input.device, await deps.store.setDeviceState(input.device, 'accepted', at, line));
};

/** The record first, then the connection is closed: a device that reconnects at once meets the record. */
export const rejectDevice = async (
  deps: { store: Pick<Store, 'setDeviceState'>; link: Pick<DeviceLink, 'disconnect'>; now: () => number },
  input: { device: Id; by: string },
): Promise<Result<DeviceRecord>> => {
  const at = deps.now();
  const line = auditLine({ at, by: input.by, kind: 'device-rejected', device: input.device });
  const rejected = known(input.device, await deps.store.setDeviceState(input.device, 'rejected', at, line));
  if (rejected.ok) deps.link.disconnect(input.device);
  return rejected;
};

/** Sets the given tags and leaves the others; an empty value removes one. */
export const tagDevice = async (
  deps: { store: Pick<Store, 'getDevice' | 'setDeviceTags'>; now: () => number },
  input: { device: Id; tags: Record<string, string>; by: string },
): Promise<Result<DeviceRecord>> => {
  const device = await deps.store.getDevice(input.device);
  if (device === undefined) return known(input.device, undefined);
  const merged = Object.entries({ ...device.tags, ...input.tags }).filter(([, value]) => value !== '');
  if (merged.length > TAGS_MAX) return refuse('invalid-request', `a device has at most ${TAGS_MAX} tags`);
  const line = auditLine({
    at: deps.now(),
    by: input.by,
    kind: 'device-tagged',
    device: input.device,
    tags: input.tags,
  });
  return known(input.device, await deps.store.setDeviceTags(input.device, Object.fromEntries(merged), line));
};

/**
 * Tokens are shown once and kept as digests. Each carries the trust root's digest, so that a device needs no other
 * secret.
 */
export const createEnrolmentTokens = async (
  deps: { store: Pick<Store, 'createEnrolmentTokens'>; rootSha256: Sha256; now: () => number },
  input: { count: number; device?: Id | undefined; tags: Record<string, string>; expiresInMs: number; by: string },
): Promise<Result<{ tokens: string[]; expiresAt: number }>> => {
  if (input.device !== undefined && input.count > 1) {
    return refuse('invalid-request', 'a token for one device is used once: ask for one');
  }
  const at = deps.now();
  const expiresAt = at + input.expiresInMs;
  const root = Buffer.from(deps.rootSha256, 'hex').toString('base64url');
  const tokens = Array.from({ length: input.count }, () => `sle_${randomBytes(32).toString('base64url')}_${root}`);
  const device = input.device ?? null;
  await deps.store.createEnrolmentTokens(
    tokens.map((token) => ({ tokenSha256: sha256Hex(token), expiresAt, device, tags: input.tags, usedBy: null })),
    auditLine({ at, by: input.by, kind: 'enrolment-tokens-created', tokens: input.count, device }),
  );
  return accept({ tokens, expiresAt });
};

const known = (id: Id, device: DeviceRecord | undefined): Result<DeviceRecord> =>
  device === undefined ? refuse('not-found', `there is no device ${id}`) : accept(device);
