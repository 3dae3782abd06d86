/**
 * What a manifest must hold to when it is made and when it is published, beyond its form. Not where one is only read: what was
 * accepted once stays readable.
 */
import type { Manifest } from './manifest.ts';
import { versionFault } from './version-order.ts';

/** Every fault, as sentences; none when it may be published. */
export const manifestFaults = (manifest: Manifest): string[] => {
  const version = versionFault(manifest.version);
  return version === undefined ? [] : [version];
};
