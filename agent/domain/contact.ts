/** How far a device gets towards its server, and whether that is as far as a policy asks. */
import { unreachable } from '#shared/ids.ts';
import type { HealthPolicy } from '#shared/manifest.ts';

export type Contact =
  /** Connected over MQTT. */
  | { reach: 'broker' }
  /** The server answers over HTTP; its broker cannot be reached. */
  | { reach: 'http' }
  /** Others answer, or the gateway does: the server is down, for everyone perhaps. */
  | { reach: 'network'; why: string }
  /** No one answers. */
  | { reach: 'none'; why: string }
  /** Not known yet. */
  | { reach: 'unknown' };

/** Farther than `network` is the server itself. */
const REACH = { unknown: 0, none: 0, network: 1, http: 2, broker: 3 } as const;
const NEEDED = { network: 1, true: 2, broker: 3 } as const;

export const isEnough = ({ reach }: Contact, asked: HealthPolicy['serverContact']): boolean =>
  asked === false || REACH[reach] >= NEEDED[asked === true ? 'true' : asked];

/** The server itself must be reached: no one who cannot may begin such a trial unasked. */
export const asksForServer = (asked: HealthPolicy['serverContact']): boolean => asked === true || asked === 'broker';

/** What is wrong with it, as a main clause. */
export const contactSentence = (contact: Contact): string => {
  switch (contact.reach) {
    case 'broker':
      return 'the server is connected';
    case 'http':
      return 'the MQTT broker is not reachable, though the server answers over HTTP';
    case 'network':
      return `the server is not reachable, though the network works: ${contact.why}`;
    case 'none':
      return `the network is broken: ${contact.why}`;
    case 'unknown':
      return 'the server is not reachable';
    default:
      return unreachable(contact);
  }
};
