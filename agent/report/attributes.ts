/** What a device says about itself, for selectors and for people. */
import { TIME_ZONE_ATTRIBUTE } from '#shared/windows.ts';
import type { AgentConfig } from '../config/config.ts';
import type { SteadyHealth } from './steady-health.ts';
import { localTimeZone } from './time-zone.ts';

export const attributesOf = (config: AgentConfig, refusal: { code: string } | null): Record<string, string> => ({
  ...zoneOf(),
  ...config.attributes,
  arch: process.arch,
  platform: process.platform,
  node: process.versions.node,
  ...(refusal === null ? {} : { refused: refusal.code }),
});

/**
 * Where maintenance windows are in the device's own time; configuration may say otherwise. Where nothing names a zone,
 * the window's own counts.
 */
const zoneOf = (): Record<string, string> => {
  const zone = localTimeZone(process.env);
  return zone === undefined ? {} : { [TIME_ZONE_ATTRIBUTE]: zone };
};

export const illnessOf = (steady: SteadyHealth): Record<string, string> => {
  const illness = steady.illness();
  return illness === null ? {} : { unhealthy: illness };
};
