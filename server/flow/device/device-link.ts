/**
 * The port through which flows reach connected devices. The embedded broker implements it; nothing here promises
 * delivery.
 */

import type { Id } from '#shared/ids.ts';
import type { Ack, Desired } from '#shared/messages.ts';

export type DeviceLink = {
  /**
   * Push a desired document to the device if it is connected now; a device that connects later gets its newest one
   * then.
   */
  pushDesired(device: Id, desired: Desired): void;
  acknowledge(device: Id, ack: Ack): void;
  /** Close the device's connection, for example when it was rejected. */
  disconnect(device: Id): void;
};
