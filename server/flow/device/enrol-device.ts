/** A device introduces itself: it proves that it holds its key, and is let in by a token or waits for an operator. */

import { type AuditEvent, auditLine, byDevice } from '#server/domain/audit.ts';
import type { DeviceState } from '#server/store/devices.ts';
import type { Store } from '#server/store/store.ts';
import { ENROLMENT_TOKEN, EnrolmentPayload } from '#shared/device-api.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { Signed } from '#shared/messages.ts';
import { accept, type Refusal, type Result, refuse } from '#shared/problems.ts';
import { addressGroup, perKey } from '#shared/token-bucket.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { ed25519PublicKey, keyIdOf, verifySignature } from '#shared/trust/keys.ts';
import type { DeviceLink } from './device-link.ts';
import type { Ingest } from './ingest.ts';

/**
 * Of one address: enough for a rack of devices behind one NAT that all start at once, and ask again every few seconds.
 */
const RATE = { burst: 200, perSecond: 5 };
const ADDRESSES_MAX = 10_000;
/** Anyone may ask to be let in, so the number of those who wait is bounded. */
const PENDING_MAX = 10_000;
/** How far a device's clock may be off when it enrols; its clock is only then set by many. */
const CLOCK_SKEW_MS_MAX = 24 * 3_600_000;
const ATTRIBUTES_MAX = 64;

export type Enrolment = { state: DeviceState; rootSha256: Sha256; mqttUrl: string; serverTime: number };
/** Asked before anything of a request is read: how often an address may ask to be let in. */
export const makeEnrolmentGate = (monotonic: () => number = () => performance.now()) => {
  const allowed = perKey(RATE, ADDRESSES_MAX);
  return (address: string): Refusal | undefined =>
    allowed(addressGroup(address), monotonic())
      ? undefined
      : refuse('rate-limited', 'this address asks too often; wait a moment');
};

export type EnrolDeps = {
  store: Pick<Store, 'enrolDevice' | 'getDevice' | 'countDevices' | 'forgetReports'>;
  link: Pick<DeviceLink, 'disconnect'>;
  ingest: Pick<Ingest, 'forget'>;
  rootSha256: Sha256;
  mqttUrl: string;
  now: () => number;
};

/**
 * Idempotent: with the same key the answer is what the server has recorded, so a device may ask again after a lost
 * answer, and while it waits. Refusals: `rate-limited` (too many wait), `invalid-request`, `signature-invalid`,
 * `clock-skew`, `token-invalid`, `already-exists` (the id belongs to another key, and the token was not made for this
 * very id).
 */
export const makeEnrolDevice = (deps: EnrolDeps) => {
  return async (signed: Signed): Promise<Result<Enrolment>> => {
    const now = deps.now();
    const checked = checkEnrolment(signed, now);
    if (!checked.ok) return checked;
    const payload = checked.value;
    const wrong = tokenProblem(payload.token, deps.rootSha256);
    if (wrong !== undefined) return refuse('token-invalid', wrong);
    if (payload.token === null) {
      const full = await waitingRoomIsFull(deps, payload);
      if (full) return refuse('rate-limited', `${PENDING_MAX} devices wait already; an operator has to decide on them`);
    }
    const event: AuditEvent = {
      at: now,
      by: byDevice(payload.device),
      kind: 'device-enrolled',
      device: payload.device,
      publicKey: payload.publicKey,
      compatible: payload.compatible,
      state: payload.token === null ? 'pending' : 'accepted',
    };
    const enrolled = await deps.store.enrolDevice(
      {
        id: payload.device,
        publicKey: payload.publicKey,
        compatible: payload.compatible,
        attributes: payload.attributes,
        enrolledAt: now,
      },
      payload.token === null ? null : sha256Hex(payload.token),
      now,
      auditLine(event),
      auditLine({ ...event, replaced: true }),
    );
    if (enrolled.result === 'replaced') await shutOldKeyOut(deps, payload.device);
    return answer(deps, payload.device, enrolled, now);
  };
};

/**
 * The record first, so that the old key cannot log in again; then its connection, and what came over it and waits to be
 * written. Only then is the newcomer answered, so that nothing of its own is lost, and its reports are counted from 0.
 */
const shutOldKeyOut = async ({ store, link, ingest }: EnrolDeps, device: Id): Promise<void> => {
  link.disconnect(device);
  await ingest.forget(device);
  await store.forgetReports(device);
};

const answer = (
  deps: EnrolDeps,
  device: Id,
  enrolled: Awaited<ReturnType<Store['enrolDevice']>>,
  now: number,
): Result<Enrolment> => {
  if (!('device' in enrolled)) return refuseEnrolment(device, enrolled.result);
  const { state } = enrolled.device;
  return accept({ state, rootSha256: deps.rootSha256, mqttUrl: deps.mqttUrl, serverTime: now });
};

const refuseEnrolment = (device: Id, why: 'token-invalid' | 'id-taken'): Refusal =>
  why === 'token-invalid'
    ? refuse('token-invalid', 'the token is unknown, used, expired, or meant for another device')
    : refuse(
        'already-exists',
        `${device} is enrolled with another key: choose another id, or, when this device takes its place, ask an operator for a token made for ${device}`,
      );

/** The signature must be of the very key that the payload names: proof of possession. */
const checkEnrolment = (signed: Signed, now: number): Result<EnrolmentPayload> => {
  let json: unknown;
  try {
    json = JSON.parse(signed.payload);
  } catch {
    return refuse('invalid-request', 'payload: is not JSON');
  }
  const parsed = EnrolmentPayload.safeParse(json);
  if (!parsed.success) {
    const issues = parsed.error.issues.map(({ path, message }) => `payload.${path.map(String).join('.')}: ${message}`);
    return refuse('invalid-request', issues.join('; ').slice(0, 2_000));
  }
  const payload = parsed.data;
  if (Object.keys(payload.attributes).length > ATTRIBUTES_MAX) {
    return refuse('invalid-request', `payload.attributes: at most ${ATTRIBUTES_MAX}`);
  }
  const key = ed25519PublicKey(payload.publicKey);
  if (signed.keyId !== keyIdOf(key) || !verifySignature(key, signed.payload, signed.sig)) {
    return refuse('signature-invalid', 'the enrolment is not signed with the key that it names');
  }
  if (Math.abs(now - payload.at) > CLOCK_SKEW_MS_MAX) {
    return refuse('clock-skew', `the device clock says ${payload.at}; server time: ${now}`);
  }
  return accept(payload);
};

/** A token of another server is worth a clearer answer than "unknown". */
const tokenProblem = (token: string | null, rootSha256: Sha256): string | undefined => {
  if (token === null) return undefined;
  const match = ENROLMENT_TOKEN.exec(token);
  if (match === null) return 'that is not an enrolment token (sle_...)';
  const root = Buffer.from(match[2] ?? '', 'base64url').toString('hex');
  return root === rootSha256 ? undefined : 'the token was made by another server: its trust root is not this one';
};

const waitingRoomIsFull = async (
  deps: Pick<EnrolDeps, 'store'>,
  payload: Pick<EnrolmentPayload, 'device'>,
): Promise<boolean> => {
  if ((await deps.store.getDevice(payload.device)) !== undefined) return false;
  const counts = await deps.store.countDevices();
  const pending = counts.filter(({ state }) => state === 'pending').reduce((sum, { devices }) => sum + devices, 0);
  return pending >= PENDING_MAX;
};
