/** A device's short-lived login token: `base64url(payload) + '.' + base64url(signature)`, made by the device itself. */
import { randomBytes } from 'node:crypto';
import type { z } from 'zod';
import { LOGIN_MS_MAX, LoginPayload as Payload } from '../device-api.ts';
import type { Id } from '../ids.ts';
import { accept, type Result, refuse } from '../problems.ts';
import { canonicalJson } from './canonical.ts';
import { ed25519PublicKey, verifySignature } from './keys.ts';
import type { Signer } from './signers.ts';

export type LoginPayload = z.infer<typeof Payload>;

const TOKEN = /^([A-Za-z0-9_-]{2,700})\.([A-Za-z0-9_-]{86})$/;

/** A token that is good from `LOGIN_MS_MAX` before `at` to as long after it. */
export const makeLogin = (signer: Signer, device: Id, at: number): string => {
  const payload = { type: 'sluice/login/1', device, at, nonce: randomBytes(16).toString('hex') };
  const text = canonicalJson(payload);
  return `${Buffer.from(text).toString('base64url')}.${Buffer.from(signer.sign(text), 'hex').toString('base64url')}`;
};

/** What the token says, nothing checked: only to learn whose key to check it with. */
export const readLogin = (token: string): LoginPayload | undefined => split(token)?.payload;

const split = (token: string): { payload: LoginPayload; text: string; sig: string } | undefined => {
  const [, body, signature] = TOKEN.exec(token) ?? [];
  if (body === undefined || signature === undefined) return undefined;
  const text = Buffer.from(body, 'base64url').toString();
  try {
    const payload = Payload.safeParse(JSON.parse(text));
    if (!payload.success) return undefined;
    return { payload: payload.data, text, sig: Buffer.from(signature, 'base64url').toString('hex') };
  } catch {
    return undefined; // not JSON
  }
};

/**
 * The payload when the device with this raw Ed25519 key made the token near `now` by its own clock. Refuses with
 * `unauthenticated`; with `clock-skew` only when the signature is good, so that a device can learn to set its clock.
 */
export const verifyLogin = (token: string, publicKeyHex: string, now: number): Result<LoginPayload> => {
  const parts = split(token);
  if (parts === undefined) return refuse('unauthenticated', 'the login token is not of the expected form');
  if (!verifySignature(ed25519PublicKey(publicKeyHex), parts.text, parts.sig)) {
    return refuse('unauthenticated', 'the login token is not signed with the key that this device enrolled with');
  }
  const skewMs = parts.payload.at - now;
  if (Math.abs(skewMs) > LOGIN_MS_MAX) {
    const seconds = Math.round(Math.abs(skewMs) / 1000);
    return refuse('clock-skew', `the device's clock is ${seconds} s ${skewMs > 0 ? 'ahead' : 'behind'}`);
  }
  return accept(parts.payload);
};
