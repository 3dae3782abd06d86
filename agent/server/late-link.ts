/** The MQTT connection as the other parts know it from the start: closed until there is a fleet to connect to. */
import { type Link, type LinkOptions, openLink } from './link.ts';
import type { HttpGet } from './request.ts';

export type LateLink = Pick<Link, 'connected' | 'publish' | 'stop'> & {
  open(options: LinkOptions): void;
  /** What is otherwise read over HTTP; undefined while there is no connection. */
  blocks: () => HttpGet | undefined;
};

export const openLateLink = (): LateLink => {
  let link: Link | undefined;
  const connected = (): boolean => link?.connected() === true;
  return {
    open: (options) => {
      link = openLink(options);
    },
    connected,
    publish: (channel, message) => link?.publish(channel, message) === true,
    blocks: () => (connected() ? link?.blocks : undefined),
    stop: async () => link?.stop(),
  };
};
