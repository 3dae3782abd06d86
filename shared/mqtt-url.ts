/** Where a broker listens, as a URL: the server tells it to its devices, and both check it. */
import { z } from 'zod';

const PROTOCOLS = ['mqtt', 'mqtts', 'ws', 'wss'] as const;
type Protocol = (typeof PROTOCOLS)[number];
/** Where none is named. */
const PORTS: Record<Protocol, number> = { mqtt: 1883, mqtts: 8883, ws: 80, wss: 443 };

export type MqttAddress = {
  protocol: Protocol;
  /** An IPv6 address without its brackets. */
  host: string;
  port: number;
  /** For WebSockets, with its query. */
  path: string;
};

const HOST = /^(?:[A-Za-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])$/;

/** Undefined when it is none: nothing that the network's functions would throw at comes through. */
export const parseMqttUrl = (text: string): MqttAddress | undefined => {
  // A URL drops blanks at its ends and breaks of lines anywhere.
  if (/\s/.test(text) || !URL.canParse(text)) return undefined;
  const { protocol: scheme, hostname, port, pathname, search, username, password } = new URL(text);
  const protocol = PROTOCOLS.find((known) => `${known}:` === scheme);
  if (protocol === undefined || !HOST.test(hostname) || port === '0') return undefined;
  // A device logs in by a name and a key of its own.
  if (username !== '' || password !== '') return undefined;
  return {
    protocol,
    host: hostname.replace(/^\[(.*)\]$/, '$1'),
    port: port === '' ? PORTS[protocol] : Number(port),
    path: `${pathname}${search}`,
  };
};

export const MqttUrl = z
  .string()
  .max(512)
  .refine(
    (text) => parseMqttUrl(text) !== undefined,
    'must be mqtt://host:port, mqtts://host:port, ws://host:port/path or wss://host:port/path, without a login',
  );
