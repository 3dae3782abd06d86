/** How a device becomes known to its server, and whom it trusts from then on. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { deviceRoutes, ENROLMENT_TOKEN, type EnrolmentPayload } from '#shared/device-api.ts';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import { MqttUrl } from '#shared/mqtt-url.ts';
import { accept, type ProblemCode, type Result, refuse } from '#shared/problems.ts';
import type { AgentConfig } from '../config/config.ts';
import type { Disk } from '../disk/disk.ts';
import { type Backoff, backoffMs } from '../domain/backoff.ts';
import type { Log } from '../log.ts';
import type { Http, ServerClock } from './http.ts';
import type { Identity } from './identity.ts';
import type { Troubles } from './trouble.ts';

/** What an accepted enrolment leaves on disk. */
const Enrolled = z.object({
  v: z.literal(1),
  device: Id,
  serverUrl: z.string(),
  /** Null where what was kept cannot be used: the device is a member all the same, and asks for it again. */
  mqttUrl: MqttUrl.nullable().catch(null),
  rootSha256: Sha256,
});
export type Enrolled = z.infer<typeof Enrolled>;

export type EnrolOptions = {
  dir: string;
  disk: Pick<Disk, 'attempt'>;
  config: Pick<
    AgentConfig,
    'device' | 'serverUrl' | 'compatible' | 'attributes' | 'token' | 'trustRoot' | 'trustOnFirstUse'
  >;
  /** What the device is held to since an earlier life. */
  root: Sha256 | undefined;
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

/** What the last enrolment left, wherever it was. A file that cannot be read is a damaged one. */
export const readLastEnrolled = async (dir: string): Promise<Enrolled | undefined> => {
  const bytes = await readFileIfThere(file(dir)).catch(() => undefined);
  if (bytes === undefined) return undefined;
  try {
    return Enrolled.safeParse(JSON.parse(bytes.toString('utf8'))).data;
  } catch {
    return undefined; // Not JSON: enrolling again is harmless.
  }
};

/** The same, where it was with this server and under this name: else the device asks again. */
export const readEnrolled = async (
  dir: string,
  config: { device: Id; serverUrl: string },
): Promise<Enrolled | undefined> => {
  const known = await readLastEnrolled(dir);
  return known?.device === config.device && known.serverUrl === config.serverUrl ? known : undefined;
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

/** A device that has a root keeps it: what its configuration says since may agree with it, and nothing more. */
const rootToHold = (config: EnrolOptions['config'], root: Sha256 | undefined): Result<Sha256 | undefined> => {
  const given = trustedRoot(root === undefined ? config : { ...config, trustOnFirstUse: true });
  if (!given.ok || root === undefined) return given;
  if (given.value === undefined || given.value === root) return accept(root);
  return refuse(
    'forbidden',
    `this device trusts the root ${root}, and its token or trustRoot names ${given.value}: take that away, or, for another fleet, start with a new data folder`,
  );
};

/** Asking again cannot change these answers; a person has to. */
const FINAL = new Set<ProblemCode>([
  'invalid-request',
  'signature-invalid',
  'token-invalid',
  'already-exists',
  'forbidden',
]);

/**
 * Asks until the server accepts this device, and keeps that durably. Refusals, for a device that has no root yet: the
 * server's final answers, and `forbidden` when it shows another trust root than the one given. One that has a root goes
 * on without its server, and asks again now and then: someone may put right what is wrong at the server's new address.
 * Rejects only when aborted.
 */
export const enrol = async (options: EnrolOptions): Promise<Result<Enrolled>> => {
  const { config, log, signal } = options;
  const isMember = options.root !== undefined;
  const pinned = rootToHold(config, options.root);
  if (!pinned.ok && !isMember) return pinned;
  let token = config.token ?? null;
  if (isMember)
    log.info(
      { event: 'enrolling-again' },
      `this device did not enrol at ${config.serverUrl} before: it does so now, with the key and the trust root that it has`,
    );
  for (let attempt = 0; ; attempt += 1) {
    const asked = pinned.ok ? await askOnce(options, token) : pinned;
    const answer = asked.ok ? ofThisRoot(options, pinned.ok ? pinned.value : undefined, asked.value) : asked;
    if (answer.ok) {
      const { state, rootSha256, mqttUrl } = answer.value;
      if (state === 'accepted') {
        options.trouble.set('enrolment', null);
        if (pinned.ok && pinned.value === undefined) {
          log.warn(
            { event: 'trust-on-first-use', rootSha256 },
            'TRUST ON FIRST USE: believing the trust root that the server shows, unchecked',
          );
        }
        return accept(await keep(options, { rootSha256, mqttUrl }));
      }
      const why = waitWords(config.device, state);
      options.trouble.set('enrolment', why);
      log.warn({ event: `enrolment-${state}` }, why);
    } else if (!isMember && FINAL.has(answer.code)) {
      return refuse(
        answer.code,
        answer.code === 'forbidden' ? answer.detail : `enrolment was refused: ${answer.detail}`,
      );
    } else {
      // It was for the first enrolment, and may be used up; an operator can let the device in without it.
      if (answer.code === 'token-invalid') token = null;
      const why = `enrolment did not succeed yet: ${answer.detail}`;
      options.trouble.set('enrolment', why);
      log.warn({ event: 'enrolment-retried', code: answer.code }, why);
    }
    await sleep(backoffMs(attempt, options.backoff, Math.random()), undefined, { signal });
  }
};

const waitWords = (device: Id, state: 'pending' | 'rejected'): string =>
  state === 'pending'
    ? `waiting until an operator accepts ${device}`
    : `an operator has rejected ${device}; asking again now and then`;

/**
 * Asks once more what the server tells its devices, such as a new MQTT address; a server that does not know the device
 * any more, since it was restored from a backup, knows it again. Undefined when there is nothing new to believe.
 */
export const refreshEnrolled = async (options: EnrolOptions): Promise<Enrolled | undefined> => {
  const known = await readEnrolled(options.dir, options.config);
  if (known === undefined) return undefined;
  const first = await askOnce(options, options.config.token ?? null);
  const asked = !first.ok && first.code === 'token-invalid' ? await askOnce(options, null) : first;
  const answer = asked.ok ? ofThisRoot(options, known.rootSha256, asked.value) : asked;
  if (!answer.ok) return undefined;
  const { state, rootSha256, mqttUrl } = answer.value;
  options.trouble.set('enrolment', state === 'accepted' ? null : waitWords(options.config.device, state));
  // The same news need not be written down.
  return state !== 'accepted' || mqttUrl === known.mqttUrl ? undefined : keep(options, { rootSha256, mqttUrl });
};

type Answer = z.infer<typeof deviceRoutes.enrol.answer>;

/** No other root is ever believed. */
const ofThisRoot = ({ config }: EnrolOptions, root: Sha256 | undefined, answer: Answer): Result<Answer> =>
  root === undefined || answer.rootSha256 === root
    ? accept(answer)
    : refuse(
        'forbidden',
        `the server at ${config.serverUrl} shows another trust root than the one this device was given: it is of another fleet`,
      );

const askOnce = async (options: EnrolOptions, token: string | null): Promise<Result<Answer>> => {
  const { config, identity, http, clock, signal } = options;
  const payload: EnrolmentPayload = {
    type: 'sluice/enrol/1',
    device: config.device,
    publicKey: identity.publicKey,
    compatible: config.compatible,
    attributes: config.attributes,
    token,
    at: Math.max(0, clock.now()),
  };
  const before = performance.now();
  const answer = await http.postJson(
    deviceRoutes.enrol.path,
    identity.sign(payload),
    deviceRoutes.enrol.answer,
    signal,
  );
  signal.throwIfAborted();
  if (!answer.ok) return refuse(answer.code, answer.message);
  // A slow answer's time is old; half a minute is far below what a login tolerates.
  if (performance.now() - before < 30_000) clock.learn(answer.value.serverTime);
  return accept(answer.value);
};

const keep = async (
  { dir, config, disk }: EnrolOptions,
  answer: { rootSha256: Sha256; mqttUrl: string },
): Promise<Enrolled> => {
  const enrolled: Enrolled = { v: 1, device: config.device, serverUrl: config.serverUrl, ...answer };
  // Without it the device asks again at its next start, with the same key.
  await disk.attempt('enrolment.json', () => writeFileDurably(file(dir), `${JSON.stringify(enrolled)}\n`, 0o600));
  return enrolled;
};
