/**
 * The names of the lives (`boot`) in which a device speaks. A life is one process: once another has spoken, it is over.
 * One that speaks again all the same is another machine with the same key, such as one that was made from the same disk
 * image.
 */
import type { Id } from '#shared/ids.ts';

/** `before`: newest first. */
export type Boots = { readonly current: Id; readonly before: readonly Id[] };

/** More machines than this that take turns are still found, as soon as one of them speaks twice within so many. */
const BEFORE_MAX = 4;

/** `returned`: a life that was over speaks. */
export const hear = (known: Boots | undefined, boot: Id): { next: Boots; returned: boolean } => {
  if (known === undefined) return { next: { current: boot, before: [] }, returned: false };
  if (known.current === boot) return { next: known, returned: false };
  const others = known.before.filter((one) => one !== boot);
  const next = { current: boot, before: [known.current, ...others].slice(0, BEFORE_MAX) };
  return { next, returned: others.length < known.before.length };
};

/** So long after two devices were last seen to use one key, neither is offered anything. */
export const SHARED_MS = 3_600_000;

export type SharingKey = { devices: number; named: Id[] };
export const SHARING_NAMED_MAX = 5;

/** A sentence for people; undefined when there is none. */
export const sharingWords = ({ devices, named }: SharingKey): string | undefined => {
  if (devices === 0) return undefined;
  const more = devices > named.length ? ` and ${devices - named.length} more` : '';
  const who = `${named.join(', ')}${more}`;
  return devices === 1
    ? `1 device is offered nothing, because two devices use its key: ${who}`
    : `${devices} devices are offered nothing, because two devices use the key of each: ${who}`;
};
