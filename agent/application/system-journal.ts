/**
 * Lines for journald, over the stream that systemd gives to the services which it starts (`StandardOutput=journal`,
 * sd_journal_stream_fd(3)): a Unix socket, seven lines that say whose they are, then what is to be logged, a line each.
 */
import { connect, type Socket } from 'node:net';
import type { Log } from '../log.ts';
import { errorCode } from '../process/system-error.ts';
import type { OutputSink } from './application-log.ts';

export const JOURNAL_SOCKET = '/run/systemd/journal/stdout';
const IDENTIFIER = 'sluice-application';
/** LOG_INFO; a line may say another itself (`<3>` at its beginning, sd-daemon(3)). */
const PRIORITY = 6;
const HEADER = `${IDENTIFIER}\n\n${PRIORITY}\n1\n0\n0\n0\n`;
const QUEUE_BYTES_MAX = 256 * 1024;
const AGAIN_MS = 5_000;
const GOODBYE_MS_MAX = 1_000;

/** Never blocks the application: what journald does not take in time is dropped and counted. */
export const openSystemJournal = (options: {
  socket?: string;
  againMs?: number;
  log?: Pick<Log, 'warn'>;
}): OutputSink => {
  const path = options.socket ?? JOURNAL_SOCKET;
  let stream: Socket | undefined;
  let again: NodeJS.Timeout | undefined;
  let dropped = 0;
  let told = false;
  let closed = false;

  const open = (): void => {
    // journald closes its half at once.
    const socket = connect({ path, allowHalfOpen: true });
    stream = socket;
    socket.write(HEADER);
    socket.once('connect', () => {
      told = false;
    });
    socket.resume();
    socket.on('error', (error) => {
      if (!told) {
        const lost = 'only the last lines of the application are kept meanwhile';
        options.log?.warn({ event: 'journal-unreached', err: error }, `${path}: ${errorCode(error)}: ${lost}`);
      }
      told = true;
    });
    socket.once('close', () => {
      stream = undefined;
      if (!closed) again = setTimeout(open, options.againMs ?? AGAIN_MS).unref();
    });
  };
  open();

  return {
    write: (bytes) => {
      if (stream === undefined || stream.writableLength + bytes.length > QUEUE_BYTES_MAX) {
        dropped += bytes.length;
        return;
      }
      if (dropped > 0) stream.write(`\n[${dropped} bytes of output dropped]\n`);
      dropped = 0;
      stream.write(bytes);
    },
    close: async () => {
      closed = true;
      clearTimeout(again);
      const last = stream;
      if (last === undefined) return;
      const ended = new Promise<void>((resolve) => last.once('close', () => resolve()));
      last.destroySoon();
      const late = setTimeout(() => last.destroy(), GOODBYE_MS_MAX);
      await ended;
      clearTimeout(late);
    },
  };
};
