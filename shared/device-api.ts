/** The devices' API under /device/v1. Everything but enrolment carries `authorization: Device <login token>`. */
import { z } from 'zod';
import { Compatible, Id, Millis, Sha256, text } from './ids.ts';
import { Desired, LogPiece, Signed, SpreadMs } from './messages.ts';
import { MqttUrl } from './mqtt-url.ts';
import { route } from './route.ts';

/** What a device signs to enrol, proof that it holds the key. Canonical JSON of this is `Enrolment.payload`. */
export const EnrolmentPayload = z.object({
  type: z.literal('sluice/enrol/1'),
  device: Id,
  /** Raw Ed25519 public key, hexadecimal. */
  publicKey: z.string().regex(/^[0-9a-f]{64}$/),
  compatible: Compatible,
  attributes: z.record(z.string().regex(/^[a-z][a-z0-9_.-]{0,63}$/), text(256)),
  token: z.string().max(256).nullable(),
  at: Millis,
});
export type EnrolmentPayload = z.infer<typeof EnrolmentPayload>;

/**
 * A short-lived login, made by the device itself: canonical JSON, signed with the device key, sent as
 * `base64url(payload) + '.' + base64url(signature)`. It is the MQTT password (user name and client id: the device id)
 * and the HTTP bearer after `Device `. The server accepts it for `LOGIN_SECONDS_MAX` around `at`.
 */
export const LoginPayload = z.object({
  type: z.literal('sluice/login/1'),
  device: Id,
  at: Millis,
  nonce: z.string().regex(/^[0-9a-f]{16,64}$/),
});
export const LOGIN_MS_MAX = 300_000;

/**
 * An enrolment token: `sle_` + 32 random bytes base64url + `_` + the trust root's SHA-256 in base64url, so that a
 * device needs no other secret to know whom to trust.
 */
export const ENROLMENT_TOKEN = /^sle_([A-Za-z0-9_-]{43})_([A-Za-z0-9_-]{43})$/;

/** Of every request with a device's login: in which of its lives it asks, like `boot` in its messages. */
export const BOOT_HEADER = 'sluice-boot';

export const deviceRoutes = {
  enrol: route({
    method: 'POST',
    path: '/device/v1/enrol',
    roles: ['public'],
    tags: ['device'],
    summary: 'Enrol, or ask again whether an operator has accepted this device',
    body: Signed,
    answer: z.object({
      state: z.enum(['pending', 'accepted', 'rejected']),
      rootSha256: Sha256,
      mqttUrl: MqttUrl,
      serverTime: Millis,
    }),
  }),
  desired: route({
    method: 'GET',
    path: '/device/v1/desired',
    roles: ['device'],
    tags: ['device'],
    summary: 'What this device should run: asked once more right before activation',
    answer: z.object({ desired: Desired.nullable(), serverTime: Millis, spreadMs: SpreadMs.optional() }),
  }),
  refusal: route({
    method: 'POST',
    path: '/device/v1/refusal',
    roles: ['device'],
    tags: ['device'],
    summary: 'Say why this device does not act on what it should run, where MQTT does not get through',
    body: z.object({
      code: z
        .string()
        .regex(/^[A-Z][A-Z_]{0,63}$/)
        .nullable()
        .describe('null: it does'),
    }),
    answer: z.object({}),
  }),
  logs: route({
    method: 'POST',
    path: '/device/v1/logs',
    roles: ['device'],
    tags: ['device'],
    summary: 'Keep the last lines before a failure, where MQTT does not get through',
    // JSON writes a control character in six.
    bodyBytesMax: 512 * 1024,
    body: z.object({ pieces: z.array(LogPiece).min(1).max(4) }),
    answer: z.object({ kept: z.array(Id) }),
  }),
  pack: route({
    method: 'GET',
    path: '/device/v1/pack',
    roles: ['device'],
    tags: ['device'],
    summary:
      'The smallest pack that leads to an artifact from nothing, or from one that the device has; an unsigned hint',
    query: z.object({
      /** Digest of the chunk index that the signed manifest names. */
      to: Sha256,
      /** Digests of indexes of artifacts that the device has whole. */
      from: z.union([Sha256.transform((one) => [one]), z.array(Sha256).max(16)]).default([]),
    }),
    answer: z.object({
      pack: z
        .object({ sha256: Sha256, bytes: z.number().int(), from: Sha256.nullable(), level: z.number().int() })
        .nullable(),
    }),
  }),
} as const;

/** Objects by digest: `GET /o/<sha256>`, with ranges and `ETag: "<sha256>"`. */
export const objectPath = (sha256: string): string => `/o/${sha256}`;
/**
 * The TUF repository: `/tuf/metadata/<version>.<role>.json`, `/tuf/metadata/timestamp.json`,
 * `/tuf/targets/<dir>/<sha256>.<file>`.
 */
export const TUF_METADATA = '/tuf/metadata/';
export const TUF_TARGETS = '/tuf/targets/';
