/**
 * A fault that no part caught. The agent goes on: its end would be the application's too, at every start again where
 * the fault comes again, and the part that failed is asked again by what repeats everything here (reports, polls,
 * attempts to connect, restarts of the application). One that hangs the agent is the watchdog's.
 */
import { fullBucket, take } from '#shared/token-bucket.ts';
import type { Log } from '../log.ts';

/** A fault that comes again and again must not fill the log. */
const TOLD = { burst: 20, perSecond: 1 / 60 };

/** Until what it returns is called. */
export const keepGoing = (log: Log): (() => void) => {
  const bucket = fullBucket(TOLD, performance.now());
  let untold = 0;
  const tell = (error: unknown): void => {
    if (take(bucket, TOLD, performance.now(), 0) < 1) {
      untold += 1;
      return;
    }
    take(bucket, TOLD, performance.now());
    log.error(
      { event: 'fault', err: error instanceof Error ? error : new Error(String(error)), untold },
      'a fault of the agent itself: it goes on, and so does the application',
    );
    untold = 0;
  };
  process.on('unhandledRejection', tell);
  process.on('uncaughtException', tell);
  return () => {
    process.off('unhandledRejection', tell);
    process.off('uncaughtException', tell);
  };
};
