/**
 * Which device is connected on which client. aedes' own table is not enough: when a connection is taken over while it
 * is closing, aedes deletes the newcomer from it.
 */
import type { Client } from 'aedes';
import type { Id } from '#shared/ids.ts';
import type { Ack, Desired, LogAck } from '#shared/messages.ts';
import { down } from '#shared/topics.ts';
import type { DeviceLink } from '../flow/device/device-link.ts';

/** A device that does not read while this much waits for it is cut off; it will come back and get what is newest. */
const UNREAD_BYTES_MAX = 256 * 1024;

/** Blocks leave room for what matters more. */
const UNREAD_BLOCKS_MAX = 96 * 1024;

type Connection = { client: Client; wantsDesired: boolean };

export type Connections = {
  link: DeviceLink;
  /**
   * How many times devices were disconnected on purpose: a login that was checked before the last one has to be checked
   * again.
   */
  epoch(): number;
  count(): number;
  /** True when it takes over from an older connection of the same device, which is closed. */
  attach(device: Id, client: Client): boolean;
  /** False when a newer connection of the device has taken over: then the device is still connected. */
  detach(device: Id, client: Client): boolean;
  isAttached(device: Id, client: Client): boolean;
  /** QoS 0: a lost acknowledgement costs one repeated piece. */
  acknowledgeLog(device: Id, ack: LogAck): void;
  /** `full`: so much waits for the device already that this must wait too. */
  sendBlock(device: Id, message: Buffer): 'sent' | 'full' | 'gone';
  /** The device subscribed to its desired documents; from now on they are pushed. */
  wantsDesired(device: Id, client: Client): void;
};

/**
 * aedes calls back without looking whether there is a callback, and throws when there is none. A failed write closes
 * the connection by itself.
 */
const noAnswerNeeded = (): void => {};

/** `spreadMs` goes along with every acknowledgement of a report, which each device sends as soon as it is connected. */
export const makeConnections = (spreadMs: () => number | undefined = () => undefined): Connections => {
  const connections = new Map<Id, Connection>();
  let epoch = 0;

  const send = (device: Id, { client }: Connection, channel: 'desired' | 'ack', payload: object, qos: 0 | 1): void => {
    if (client.closed) return;
    if (client.conn.writableLength > UNREAD_BYTES_MAX) {
      client.close();
      return;
    }
    client.publish(
      {
        cmd: 'publish',
        topic: down(device, channel),
        payload: JSON.stringify(payload),
        qos,
        retain: false,
        dup: false,
      },
      noAnswerNeeded,
    );
  };

  return {
    link: {
      pushDesired(device: Id, desired: Desired): void {
        const connection = connections.get(device);
        if (connection?.wantsDesired === true) send(device, connection, 'desired', desired, 1);
      },
      acknowledge(device: Id, ack: Ack): void {
        const connection = connections.get(device);
        // QoS 0: a lost acknowledgement costs one repeated report.
        if (connection !== undefined) send(device, connection, 'ack', { ...ack, spreadMs: spreadMs() }, 0);
      },
      disconnect(device: Id): void {
        epoch += 1;
        connections.get(device)?.client.close();
      },
    },
    acknowledgeLog(device, ack) {
      const connection = connections.get(device);
      if (connection !== undefined) send(device, connection, 'ack', ack, 0);
    },
    epoch: () => epoch,
    count: () => connections.size,
    attach(device, client) {
      const before = connections.get(device);
      connections.set(device, { client, wantsDesired: false });
      if (before === undefined || before.client === client) return false;
      before.client.close();
      return true;
    },
    detach(device, client) {
      return connections.get(device)?.client === client && connections.delete(device);
    },
    isAttached: (device, client) => connections.get(device)?.client === client,
    sendBlock(device, message) {
      const client = connections.get(device)?.client;
      if (client === undefined || client.closed) return 'gone';
      if (client.conn.writableLength > UNREAD_BLOCKS_MAX) return 'full';
      const topic = down(device, 'block');
      client.publish({ cmd: 'publish', topic, payload: message, qos: 0, retain: false, dup: false }, noAnswerNeeded);
      return 'sent';
    },
    wantsDesired(device, client) {
      const connection = connections.get(device);
      if (connection?.client === client) connection.wantsDesired = true;
    },
  };
};
