/** Devices that were offered a release and say why they do not act on it. */
import type { Id } from '#shared/ids.ts';

/** `named`: the first of them, with their codes. */
export type Refusing = { devices: number; named: { device: Id; code: string }[] };

export const REFUSING_NAMED_MAX = 5;

/** A sentence for people; undefined when none refuses. */
export const refusingWords = ({ devices, named }: Refusing): string | undefined => {
  if (devices === 0) return undefined;
  const who = named.map(({ device, code }) => `${device} (${code})`).join(', ');
  const more = devices > named.length ? ` and ${devices - named.length} more` : '';
  return `${devices === 1 ? '1 device does not act on its offer' : `${devices} devices do not act on their offers`}: ${who}${more}`;
};
