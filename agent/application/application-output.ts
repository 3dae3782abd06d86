/**
 * What the application writes (stdout and stderr): its end in memory, and as much of it as may be written where the
 * device wants it.
 */
import { join } from 'node:path';
import { OutputConfig } from '../config/output-config.ts';
import { admit, type OutputLimit, openGate, shutMs } from '../domain/output-limit.ts';
import type { Log } from '../log.ts';
import { type OutputSink, openApplicationLog, readLogEnd } from './application-log.ts';
import { keepLastOutput } from './last-output.ts';
import { openSystemJournal } from './system-journal.ts';

const FILE_BYTES_MAX = 256 * 1024;
const EARLIER_BYTES_MAX = 64 * 1024;

export type ApplicationOutput = {
  write(bytes: Uint8Array): void;
  /** A sentence of Sluice's own, which no limit leaves out. */
  note(sentence: string): void;
  /** The last whole lines, at most `bytesMax` bytes, or the end of a longer one. */
  last(bytesMax: number): string;
  close(): Promise<void>;
};

export type OutputOptions = {
  /** Where `application.log` lives. */
  dir: string;
  config?: OutputConfig;
  /** The size at which a file is rotated; two are kept. */
  fileBytesMax?: number;
  /** journald's; another is for tests. */
  socket?: string;
  log?: Pick<Log, 'warn'>;
  /** Monotonic, in milliseconds. */
  now?: () => number;
};

export const openApplicationOutput = async (options: OutputOptions): Promise<ApplicationOutput> => {
  const config = options.config ?? OutputConfig.parse({});
  const now = options.now ?? ((): number => performance.now());
  const file = join(options.dir, 'application.log');
  const lines = keepLastOutput(config.to === 'file' ? await readLogEnd(file, EARLIER_BYTES_MAX) : undefined);
  const sink = sinkOf(config, file, options);
  const limit: OutputLimit = config;
  const gate = openGate(limit, now());
  let telling: NodeJS.Timeout | undefined;
  let isMidLine = false;

  const put = (more: Uint8Array): void => {
    sink.write(more);
    isMidLine = more.at(-1) !== 0x0a;
  };
  const putNote = (sentence: string): Buffer => {
    const line = Buffer.from(`[sluice ${new Date().toISOString()}] ${sentence}\n`);
    put(isMidLine ? Buffer.concat([Buffer.from('\n'), line]) : line);
    return line;
  };
  const tellLeftOut = (): void => {
    clearTimeout(telling);
    telling = undefined;
    if (gate.leftOut === 0) return;
    const count = gate.leftOut.toLocaleString('en-US');
    gate.leftOut = 0;
    putNote(`${count} bytes left out: more than ${limit.bytesPerSecond} a second (output.bytesPerSecond)`);
  };

  return {
    write: (more) => {
      lines.add(more);
      if (admit(gate, limit, more.length, now())) {
        tellLeftOut();
        put(more);
      } else telling ??= setTimeout(tellLeftOut, shutMs(limit)).unref();
    },
    note: (sentence) => {
      tellLeftOut();
      lines.add(putNote(sentence));
    },
    last: lines.last,
    close: async () => {
      tellLeftOut();
      await sink.close();
    },
  };
};

const sinkOf = ({ to }: OutputConfig, file: string, options: OutputOptions): OutputSink => {
  if (to === 'file') return openApplicationLog(file, options.fileBytesMax ?? FILE_BYTES_MAX);
  if (to === 'journald') return openSystemJournal(options);
  return { write: () => undefined, close: async () => undefined };
};
