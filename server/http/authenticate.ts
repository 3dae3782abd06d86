/** Who is calling: an operator by bearer token, a device by its signed login, or no one in particular. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { type Id, Sha256 } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import type { Role } from '#shared/route.ts';
import type { OperatorRecord, OperatorRole } from '../store/operators.ts';

export type OperatorWho = { kind: 'operator'; name: string; role: OperatorRole };
export type DeviceWho = { kind: 'device'; device: Id };
export type PublicWho = { kind: 'public' };
export type Who = OperatorWho | DeviceWho | PublicWho;

export type Credentials = {
  /** The operator whose token has this digest, revoked or not. */
  findOperator(tokenSha256: Sha256): Promise<OperatorRecord | undefined>;
  /** Checks a device's login (shared/trust/login.ts) against its key and state. */
  verifyDevice(login: string): Promise<Result<Id>>;
};

const HEADER = /^(Bearer|Device) ([\x21-\x7e]{1,4096})$/i;

/** Tokens are 32 random bytes, so one round of SHA-256 is enough to keep them out of the database. */
export const tokenDigest = (token: string): Sha256 => Sha256.parse(createHash('sha256').update(token).digest('hex'));

/**
 * Decides whether a request may go on. Everything that is not expressly allowed is refused: no role, no entry.
 * @param header the `authorization` header: `Bearer <operator token>` or `Device <login>`
 * @param roles who may call the route; `admin` may call everything that is not for devices only
 */
export const authenticate = async (
  credentials: Credentials,
  header: string | undefined,
  roles: readonly Role[],
): Promise<Result<Who>> => {
  if (roles.includes('public')) return accept<Who>({ kind: 'public' });
  const [, scheme, secret] = HEADER.exec(header ?? '') ?? [];
  if (scheme === undefined || secret === undefined) {
    return refuse('unauthenticated', 'send "authorization: Bearer <token>" (operators) or "Device <login>" (devices)');
  }
  if (scheme.toLowerCase() === 'device') {
    const device = await credentials.verifyDevice(secret);
    if (!device.ok) return device;
    return roles.includes('device')
      ? accept<Who>({ kind: 'device', device: device.value })
      : refuse('forbidden', 'this is for operators, not for devices');
  }
  const operator = await operatorOf(credentials, secret);
  if (operator === undefined) return refuse('unauthenticated', 'the token is unknown or revoked');
  const operatorRoute = roles.some((role) => role !== 'device');
  if (roles.includes(operator.role) || (operator.role === 'admin' && operatorRoute)) return accept<Who>(operator);
  const needed = roles.filter((role) => role !== 'device').join(', ') || 'a device';
  return refuse('forbidden', `you are ${operator.role}; this needs ${needed}`);
};

/**
 * The lookup is by digest, so its timing tells nothing about the token; the comparison repeats that in constant time.
 */
const operatorOf = async (credentials: Credentials, token: string): Promise<OperatorWho | undefined> => {
  const digest = tokenDigest(token);
  const operator = await credentials.findOperator(digest);
  if (operator === undefined || operator.revokedAt !== null) return undefined;
  if (!timingSafeEqual(Buffer.from(operator.tokenSha256), Buffer.from(digest))) return undefined;
  return { kind: 'operator', name: operator.name, role: operator.role };
};
