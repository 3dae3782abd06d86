/** How a device becomes known to its server, and whom it trusts from then on. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { deviceRoutes, ENROLMENT_TOKEN, type EnrolmentPayload } from '#shared/device-api.ts';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import { MqttUrl } from '#shared/mqtt-url.ts';
import { accept, type ProblemCode, type Result, refuse } from '#shared/problems.ts';
import type { AgentConfig } from './config.ts';
import { type Backoff, backoffMs } from './domain/retry.ts';
import type { Http, ServerClock } from './http.ts';
import type { Identity } from './identity.ts';
import type { Log } from './log.ts';
import type { Troubles } from './trouble.ts';

/** What an accepted enrolment leaves on disk. */
const Enrolled = z.object({
  v: z.literal(1),
  device: Id,
  serverUrl: z.string(),
  /** Null where what was kept can not be used: the device is a member all the same, and asks for it again. */
  mqttUrl: MqttUrl.nullable().catch(null),
  rootSha256: Sha256,
});
export type Enrolled = z.infer<typeof Enrolled>;

export type EnrolOptions = {
  dir: string;
  config: Pick<
    AgentConfig,
    'device' | 'serverUrl' | 'compatible' | 'attributes' | 'token' | 'trustRoot' | 'trustOnFirstUse'
  >;
  identity: Identity;
  http: Pick<Http, 'postJson'>;
  clock: ServerClock;
  now: () => number;
  trouble: Pick<Troubles, 'set'>;
  log: Log;
  backoff: Backoff;
  signal: AbortSignal;
};

const file = (dir: string): string => join(dir, 'enrolment.json');

/** What an earlier enrolment with this server left; undefined when there was none, or the device was given another server or name since. */
export const readEnrolled = async (
  dir: string,
  config: { device: Id; serverUrl: string },
): Promise<Enrolled | undefined> => {
  const bytes = await readFileIfThere(file(dir));
  if (bytes === undefined) return undefined;
  try {
    const known = Enrolled.safeParse(JSON.parse(bytes.toString('utf8'))).data;
    return known?.device === config.device && known.serverUrl === config.serverUrl ? known : undefined;
  } catch {
    return undefined; // Not JSON: enrolling again is harmless.
  }
};

/**
 * Whom to trust, decided before anything is asked: the token carries the root's digest; else the configuration does.
 * `undefined` is trust on first use, which has to be asked for.
 */
export const trustedRoot = (
  config: Pick<AgentConfig, 'token' | 'trustRoot' | 'trustOnFirstUse'>,
): Result<Sha256 | undefined> => {
  const digits = config.token === undefined ? undefined : ENROLMENT_TOKEN.exec(config.token)?.[2];
  const fromToken = digits === undefined ? undefined : Sha256.parse(Buffer.from(digits, 'base64url').toString('hex'));
  if (fromToken !== undefined && config.trustRoot !== undefined && fromToken !== config.trustRoot) {
    return refuse(
      'invalid-request',
      'token and trustRoot name different trust roots: one of them is of another server',
    );
  }
  const root = fromToken ?? config.trustRoot;
  if (root === undefined && !config.trustOnFirstUse) {
    const ways =
      'give an enrolment token (it carries the digest), trustRoot, or trustOnFirstUse=true on a network that you trust';
    return refuse('invalid-request', `this device does not know whom to trust: ${ways}`);
  }
  return accept(root);
};

/** Asking again can not change these answers; a person has to. */
const FINAL = new Set<ProblemCode>(['invalid-request', 'signature-invalid', 'token-invalid', 'already-exists']);

/**
 * Asks until the server accepts this device, and keeps that durably. Refusals: the server's final answers, and `forbidden`
 * when it shows another trust root than the one pinned. Rejects only when aborted.
 */
export const enrol = async (options: EnrolOptions): Promise<Result<Enrolled>> => {
  const { config, log, signal } = options;
  const pinned = trustedRoot(config);
  if (!pinned.ok) return pinned;
  for (let attempt = 0; ; attempt += 1) {
    const answer = await askOnce(options);
    if (answer.ok) {
      const { state, rootSha256, mqttUrl } = answer.value;
      if (pinned.value !== undefined && rootSha256 !== pinned.value) {
        return refuse(
          'forbidden',
          `the server at ${config.serverUrl} shows another trust root than the one this device was given`,
        );
      }
      if (state === 'accepted') {
        options.trouble.set('enrolment', null);
        if (pinned.value === undefined) {
          log.warn(
            { event: 'trust-on-first-use', rootSha256 },
            'TRUST ON FIRST USE: believing the trust root that the server shows, unchecked',
          );
        }
        return accept(await keep(options, { rootSha256, mqttUrl }));
      }
      const why =
        state === 'pending'
          ? `waiting until an operator accepts ${config.device}`
          : `an operator has rejected ${config.device}; asking again now and then`;
      options.trouble.set('enrolment', why);
      log.warn({ event: `enrolment-${state}` }, why);
    } else if (FINAL.has(answer.code)) {
      return refuse(answer.code, `enrolment was refused: ${answer.detail}`);
    } else {
      const why = `enrolment did not succeed yet: ${answer.detail}`;
      options.trouble.set('enrolment', why);
      log.warn({ event: 'enrolment-retried', code: answer.code }, why);
    }
    await sleep(backoffMs(attempt, options.backoff, Math.random()), undefined, { signal });
  }
};

/** Asks once more what the server tells its devices, such as a new MQTT address; undefined when there is nothing new to believe. */
export const refreshEnrolled = async (options: EnrolOptions): Promise<Enrolled | undefined> => {
  const known = await readEnrolled(options.dir, options.config);
  const answer = await askOnce(options);
  if (known === undefined || !answer.ok || answer.value.state !== 'accepted') return undefined;
  const { rootSha256, mqttUrl } = answer.value;
  // Another root is not believed this way; the same news need not be written down.
  if (rootSha256 !== known.rootSha256 || mqttUrl === known.mqttUrl) return undefined;
  return keep(options, { rootSha256, mqttUrl });
};

const askOnce = async (options: EnrolOptions): Promise<Result<z.infer<typeof deviceRoutes.enrol.answer>>> => {
  const { config, identity, http, clock, now, signal } = options;
  const payload: EnrolmentPayload = {
    type: 'sluice/enrol/1',
    device: config.device,
    publicKey: identity.publicKey,
    compatible: config.compatible,
    attributes: config.attributes,
    token: config.token ?? null,
    at: Math.max(0, clock.now()),
  };
  const before = now();
  const answer = await http.postJson(
    deviceRoutes.enrol.path,
    identity.sign(payload),
    deviceRoutes.enrol.answer,
    signal,
  );
  signal.throwIfAborted();
  if (!answer.ok) return refuse(answer.code, answer.message);
  // A slow answer's time is old; half a minute is far below what a login tolerates.
  if (now() - before < 30_000) clock.learn(answer.value.serverTime);
  return accept(answer.value);
};

const keep = async (
  { dir, config }: EnrolOptions,
  answer: { rootSha256: Sha256; mqttUrl: string },
): Promise<Enrolled> => {
  const enrolled: Enrolled = { v: 1, device: config.device, serverUrl: config.serverUrl, ...answer };
  await writeFileDurably(file(dir), `${JSON.stringify(enrolled)}\n`, 0o600);
  return enrolled;
};
