/**
 * How far this device gets, as it is known at any moment; where it cannot reach the server its network is examined now
 * and then.
 */
import type { Contact } from '../domain/contact.ts';
import { examineNetwork, type NetworkOptions } from './network.ts';

export type ContactWatch = {
  /** At once. A caller is told what was found last, and makes that be looked at again. */
  contact: () => Contact;
  stop(): Promise<void>;
};

const EXAMINE_GAP_MS = 5_000;
/** What was found longer ago says nothing about now. */
const KNOWN_MS = 30_000;

export const watchContact = (options: {
  network: NetworkOptions;
  /** MQTT works. */
  connected(): boolean;
  /** The server has answered over HTTP lately. */
  answeredLately(): boolean;
}): ContactWatch => {
  const stopping = new AbortController();
  let found: { contact: Contact; at: number } | undefined;
  let examining: Promise<void> | undefined;

  const examine = (): void => {
    const isFresh = found !== undefined && performance.now() - found.at < EXAMINE_GAP_MS;
    if (examining !== undefined || isFresh || stopping.signal.aborted) return;
    examining = examineNetwork(options.network, stopping.signal)
      .then((contact) => {
        found = { contact, at: performance.now() };
      })
      // Then nothing is known.
      .catch(() => undefined)
      .finally(() => {
        examining = undefined;
      });
  };

  return {
    contact: () => {
      if (options.connected()) return { reach: 'broker' };
      if (options.answeredLately()) return { reach: 'http' };
      examine();
      return found !== undefined && performance.now() - found.at < KNOWN_MS ? found.contact : { reach: 'unknown' };
    },
    stop: async () => {
      stopping.abort();
      await examining;
    },
  };
};
