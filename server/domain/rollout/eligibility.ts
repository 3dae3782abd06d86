/**
 * Which devices a release can be offered to. The device itself has the last word: this only saves it the trouble, and
 * tells people early.
 */
import type { Id } from '#shared/ids.ts';

export type Unfit = 'not-let-in' | 'no-bundle' | 'below-floor';

/** Why a release of these bundles is nothing for the device; null when it may be offered. */
export const whyUnfit = (
  device: { state: 'pending' | 'accepted' | 'rejected'; compatible: Id; floor: number },
  bundles: readonly { compatible: Id; manifest: { securityCounter: number } }[],
): Unfit | null => {
  if (device.state !== 'accepted') return 'not-let-in';
  const bundle = bundles.find(({ compatible }) => compatible === device.compatible);
  if (bundle === undefined) return 'no-bundle';
  return bundle.manifest.securityCounter < device.floor ? 'below-floor' : null;
};
