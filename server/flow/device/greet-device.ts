/** A device that connects is told what it should run. Thousands may come at once, so they are looked up together. */
import type { Logger } from 'pino';
import type { Id } from '#shared/ids.ts';
import { type DesiredDeps, publishDesired } from './desired.ts';
import type { DeviceLink } from './device-link.ts';

const GATHER_MS = 20;
const DEVICES_MAX = 500;

export type Greeter = {
  /** Soon, the newest desired document goes to this device. */
  greet(device: Id): void;
  /** Resolves when all who came so far have been told. */
  stop(): Promise<void>;
};

export const makeGreeter = (
  deps: DesiredDeps & { link: Pick<DeviceLink, 'pushDesired'>; log: Pick<Logger, 'error'> },
): Greeter => {
  const waiting = new Set<Id>();
  let timer: NodeJS.Timeout | undefined;
  let greeting: Promise<void> | undefined;

  const greetAll = async (): Promise<void> => {
    while (waiting.size > 0) {
      const batch = [...waiting].slice(0, DEVICES_MAX);
      for (const device of batch) waiting.delete(device);
      try {
        await publishDesired(deps, batch);
      } catch (error) {
        // They ask over HTTP before they activate anything, and when they connect again.
        deps.log.error(
          { event: 'greeting-failed', err: error },
          'devices that connected could not be told what to run',
        );
      }
    }
  };
  const start = (): Promise<void> => {
    clearTimeout(timer);
    timer = undefined;
    return (greeting ??= greetAll().finally(() => (greeting = undefined)));
  };
  return {
    greet(device) {
      waiting.add(device);
      if (greeting === undefined) timer ??= setTimeout(() => void start(), GATHER_MS);
    },
    stop: start,
  };
};
