/** What a device may do on the broker: everything is refused that is not expressly allowed here. */
import type { Id } from '#shared/ids.ts';
import { DOWN, down, UP, up } from '#shared/topics.ts';

/**
 * A device writes its own up topics and reads its own down topics, by their exact names. Wildcards (also the harmless
 * `down/#`), shared subscriptions and `$SYS` are other topics, and so refused: a slow reader on a wildcard would stall
 * every publisher, and aedes takes `$share/...` literally.
 */
export const may = (device: Id, verb: 'publish' | 'subscribe', topic: string): boolean =>
  verb === 'publish'
    ? UP.some((channel) => topic === up(device, channel))
    : DOWN.some((channel) => topic === down(device, channel));

/** The subscriptions one client may hold; there is nothing else to subscribe to. */
export const SUBSCRIPTIONS_MAX = DOWN.length;
