/**
 * MQTT topics. The direction segment lets any broker's access rules express who may do what:
 * a device writes `d/<itself>/up/#` and reads `d/<itself>/down/#`, nothing else.
 */
import { Id } from './ids.ts';

const PREFIX = 'sluice/v1';

export const UP = ['state', 'heartbeat', 'online', 'log', 'block'] as const;
export type UpChannel = (typeof UP)[number];
export const DOWN = ['desired', 'ack', 'block'] as const;
export type DownChannel = (typeof DOWN)[number];

export const up = (device: string, channel: UpChannel): string => `${PREFIX}/d/${device}/up/${channel}`;
export const down = (device: string, channel: DownChannel): string => `${PREFIX}/d/${device}/down/${channel}`;

const UP_TOPIC = new RegExp(`^${PREFIX}/d/([A-Za-z0-9_-]{1,64})/up/(${UP.join('|')})$`);

/** What an up topic says, or undefined when it is none of ours. */
export const parseUp = (topic: string): { device: Id; channel: UpChannel } | undefined => {
  const match = UP_TOPIC.exec(topic);
  const channel = UP.find((name) => name === match?.[2]);
  return channel === undefined ? undefined : { device: Id.parse(match?.[1]), channel };
};
