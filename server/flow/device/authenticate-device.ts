/** Who a device is, by the login that it signed itself; the same for MQTT and HTTP. */
import type { Id } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { readLogin, verifyLogin } from '#shared/trust/login.ts';
import type { FindDevice } from './find-device.ts';

/**
 * Refusals: `unauthenticated` (no login, an unknown device, a signature of another key), `clock-skew` (with the
 * server's time, so that a device whose clock is wrong can tell), `forbidden` (known, but waiting or rejected).
 */
export const authenticateDevice = async (
  deps: { findDevice: FindDevice; now: () => number },
  login: string,
): Promise<Result<Id>> => {
  const claimed = readLogin(login);
  const device = claimed === undefined ? undefined : await deps.findDevice(claimed.device);
  if (device === undefined) return refuse('unauthenticated', 'no device is known that could have signed this login');
  const now = deps.now();
  const verified = verifyLogin(login, device.publicKey, now);
  if (!verified.ok) {
    return verified.code === 'clock-skew' ? refuse('clock-skew', `${verified.detail}; server time: ${now}`) : verified;
  }
  // Only to those who hold the key is it said where they stand.
  if (device.state === 'pending') return refuse('forbidden', 'this device waits until an operator accepts it');
  if (device.state === 'rejected') return refuse('forbidden', 'an operator has rejected this device');
  return accept(device.id);
};
