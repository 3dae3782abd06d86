/** The agent's own log: one JSON object a line, or lines for people on a terminal. Every line carries an `event` name. */
import { type Logger, pino } from 'pino';
import type { AgentConfig } from './config.ts';

export type Log = Pick<Logger, 'debug' | 'info' | 'warn' | 'error'>;

/** Synchronous, so that the last words of an agent that ends are not lost. Writing never throws: a log that can't be written is not fatal. */
export const makeAgentLog = async (config: AgentConfig['log'], deviceId: string): Promise<Logger> => {
  const options = { level: config.level, base: { deviceId }, timestamp: pino.stdTimeFunctions.isoTime };
  if (!(config.pretty ?? process.stdout.isTTY)) {
    const stream = pino.destination({ dest: 1, sync: true });
    // A full disk or a closed pipe (faults 18).
    stream.on('error', () => undefined);
    return pino(options, stream);
  }
  const { default: pretty } = await import('pino-pretty');
  return pino(
    options,
    pretty({
      colorize: process.stdout.isTTY,
      sync: true,
      translateTime: 'SYS:HH:MM:ss',
      ignore: 'event,deviceId,deployment,state',
    }),
  );
};
