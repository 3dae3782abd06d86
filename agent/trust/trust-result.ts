/** What every check of the device gives: the value that it proved, or the one code that says what is wrong. */
import type { DeviceErrorCode } from '#shared/deployment.ts';

export type TrustResult<T> = { ok: true; value: T } | { ok: false; code: DeviceErrorCode; message: string };
export const good = <T>(value: T): { ok: true; value: T } => ({ ok: true, value });
export const bad = (code: DeviceErrorCode, message: string): { ok: false; code: DeviceErrorCode; message: string } => ({
  ok: false,
  code,
  message: message.slice(0, 1000),
});

/**
 * How metadata and manifests come to the device. Paths are those of `shared/device-api.ts`. Undefined: there is no such
 * file (404). Must stop reading after `bytesMax` + 1 bytes, keep its own time limits, and reject when it can't tell.
 */
export type TrustFetch = { get(path: string, bytesMax: number): Promise<Buffer | undefined> };

/** Fetches within the limit: longer is `ENDLESS_DATA`; not there, or no answer, is the code given. */
export const fetchBounded = async (
  fetch: TrustFetch,
  path: string,
  bytesMax: number,
  unavailable: DeviceErrorCode,
): Promise<TrustResult<Buffer>> => {
  const fetched = await tryFetch(fetch, path, bytesMax);
  if (!fetched.ok) return bad(unavailable, fetched.message);
  if (fetched.bytes === undefined) return bad(unavailable, `${path} is not there`);
  if (fetched.bytes.length > bytesMax) return bad('ENDLESS_DATA', `${path} is longer than ${bytesMax} bytes`);
  return good(fetched.bytes);
};

/** Fetches what may well not be there. */
export const tryFetch = async (
  fetch: TrustFetch,
  path: string,
  bytesMax: number,
): Promise<{ ok: true; bytes: Buffer | undefined } | { ok: false; message: string }> => {
  try {
    return { ok: true, bytes: await fetch.get(path, bytesMax) };
  } catch (error) {
    return { ok: false, message: `${path}: ${error instanceof Error ? error.message : String(error)}` };
  }
};
