/**
 * What systemd is told (sd_notify(3)): ready, what goes on, stopping, and that the agent is alive. Node has no datagram
 * sockets in the file system, so that systemd's own `systemd-notify` sends the words: a short process now and then
 * (docs/decisions/0010). Not run by systemd, all of this does nothing.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { oneAtATime } from '#shared/in-turn.ts';
import type { Log } from '../log.ts';
import { endsWell } from '../process/bounded-child.ts';

export type ServiceManager = {
  /** The agent is up. It need not have reached its server: a device that is offline has started, too. */
  ready(): void;
  /** One line for `systemctl status`. */
  says(sentence: string): void;
  /** The last word. */
  stopping(): Promise<void>;
};

export type ServiceManagerOptions = {
  env: Record<string, string | undefined>;
  /** For how long a write of the journal has been going on, in milliseconds; 0 when none does. */
  writingMs: () => number;
  /** Resolves, or rejects, when the threads that serve files serve one more. */
  served: () => Promise<unknown>;
  log: Log;
};

const NOTIFY_MS_MAX = 5_000;
const STOPPING_MS_MAX = 5_000;
const SENTENCE_LENGTH_MAX = 200;

export const openServiceManager = ({ env, writingMs, served, log }: ServiceManagerOptions): ServiceManager => {
  const socket = env['NOTIFY_SOCKET'];
  if (socket === undefined || socket === '')
    return { ready: () => undefined, says: () => undefined, stopping: async () => undefined };
  let broken = false;
  let asking = false;
  const inTurn = oneAtATime();

  const send = (...words: string[]): Promise<void> =>
    inTurn(async () => {
      const sent = await notify(socket, words);
      if (sent || broken) return;
      broken = true;
      log.warn(
        { event: 'service-manager-unreached' },
        'systemd-notify does not work: systemd is not told that the agent is well',
      );
    });

  const limitMs = watchdogMs(env);
  // Three times in its limit: a word that comes late is not the last one yet.
  const feeding =
    limitMs === undefined
      ? undefined
      : setInterval(() => {
          // This runs, so the event loop turns. A disk on which a write hangs is what a restart may help; a full one it
          // does not.
          const hangs = writingMs() >= limitMs ? 'the journal hangs' : asking ? 'no file is served' : undefined;
          if (hangs !== undefined)
            return log.error({ event: 'watchdog-starved' }, `${hangs}: systemd is not told that the agent is alive`);
          asking = true;
          const answered = (): void => {
            asking = false;
            void send('WATCHDOG=1');
          };
          served().then(answered, answered);
        }, limitMs / 3);
  feeding?.unref();

  return {
    ready: () => void send('READY=1'),
    says: (sentence) => void send(`STATUS=${sentence.replaceAll(/[\r\n]+/g, ' ').slice(0, SENTENCE_LENGTH_MAX)}`),
    stopping: async () => {
      clearInterval(feeding);
      // What was said before may hang; the application must not wait for that.
      await Promise.race([send('STOPPING=1'), sleep(STOPPING_MS_MAX, undefined, { ref: false })]);
    },
  };
};

/** `WATCHDOG_USEC`, unless it is meant for another process (sd_watchdog_enabled(3)). */
const watchdogMs = (env: Record<string, string | undefined>): number | undefined => {
  const usec = Number(env['WATCHDOG_USEC']);
  const isOurs = env['WATCHDOG_PID'] === undefined || env['WATCHDOG_PID'] === String(process.pid);
  return isOurs && Number.isInteger(usec) && usec >= 1_000 ? usec / 1_000 : undefined;
};

const notify = (socket: string, words: string[]): Promise<boolean> => {
  const env = { PATH: process.env['PATH'] ?? '/usr/bin:/bin', NOTIFY_SOCKET: socket };
  return endsWell(['systemd-notify', ...words], { env }, { timeoutMs: NOTIFY_MS_MAX });
};
