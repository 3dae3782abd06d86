/** Requests from within the server on behalf of a device whose MQTT connection has proved who it is. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import { Id } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import type { FindDevice } from '../flow/device/find-device.ts';

export type Passes = {
  /** Serves as a device's login in this process, and in no other. */
  of: (device: Id) => string;
  /** Undefined: it is no pass. The device must still be accepted. */
  check: (login: string) => Promise<Result<Id>> | undefined;
};

export const makePasses = (findDevice: FindDevice): Passes => {
  const secret = randomBytes(32).toString('hex');
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  const check = async (id: Id): Promise<Result<Id>> => {
    const device = await findDevice(id);
    return device?.state === 'accepted' ? accept(id) : refuse('forbidden', 'this device is not accepted');
  };
  return {
    of: (device) => `${secret}.${device}`,
    check: (login) => {
      const [head = '', id, ...more] = login.split('.');
      const device = Id.safeParse(id);
      if (more.length > 0 || !device.success || !timingSafeEqual(digest(head), digest(secret))) return undefined;
      return check(device.data);
    },
  };
};

/** Of the object: at most as many bytes as were asked for. */
type Read = { status: number; bytes: Uint8Array; total: number; etag?: string };

/** What GET `path` answers the device, of that the bytes from `offset` on. */
export const readAs = async (
  app: FastifyInstance,
  pass: string,
  { path, offset, bytes }: { path: string; offset: number; bytes: number },
): Promise<Read> => {
  const authorization = `Device ${pass}`;
  // Only objects know ranges; everything else is a small document, cut here.
  const isObject = path.startsWith('/o/');
  const range = { range: `bytes=${offset}-${offset + bytes - 1}` };
  const answer = await app.inject({
    method: 'GET',
    url: path,
    headers: { authorization, ...(isObject ? range : {}) },
  });
  const body = answer.rawPayload;
  const nothing = { bytes: new Uint8Array(0), total: 0 };
  if (answer.statusCode === 206 || answer.statusCode === 416) {
    const total = Number(/\/(\d+)$/.exec(String(answer.headers['content-range']))?.[1] ?? 0);
    const etag = answer.headers.etag ?? '';
    return { status: 200, bytes: answer.statusCode === 206 ? body : nothing.bytes, total, etag };
  }
  if (answer.statusCode !== 200) return { status: answer.statusCode, ...nothing };
  const etag = createHash('sha256').update(body).digest('hex').slice(0, 32);
  return { status: 200, bytes: body.subarray(offset, offset + bytes), total: body.length, etag };
};
