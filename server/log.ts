/** Structured logs: one JSON object a line, or lines for people on a terminal. */
import { type Logger, pino, stdSerializers } from 'pino';
import type { ServerConfig } from './config.ts';

/**
 * Every line carries an `event` name, and ids as `deviceId`, `rolloutId`. Logs go to standard output, synchronously, so
 * that the last words of a server that ends are not lost. Credentials never reach a line.
 */
export const makeLog = async (config: ServerConfig['log']): Promise<Logger> => {
  const options = {
    level: config.level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { ...stdSerializers, req: requestLine },
    redact: ['headers.authorization', 'req.headers.authorization', '*.token', '*.password'],
  };
  if (!(config.pretty ?? process.stdout.isTTY)) return pino(options, pino.destination({ dest: 1, sync: true }));
  const { default: pretty } = await import('pino-pretty');
  const stream = pretty({ colorize: process.stdout.isTTY, sync: true, translateTime: 'SYS:HH:MM:ss', ignore: 'event' });
  return pino(options, stream);
};

/** A URL may carry secrets of others after its question mark. */
const requestLine = (request: { id?: unknown; method?: string; url?: string }) => ({
  id: request.id,
  method: request.method,
  path: request.url?.split('?', 1)[0],
});

/** `moved`: by how much, and what moved along. */
export const warnClockSet = (log: Pick<Logger, 'warn'>, moved: object): void =>
  log.warn({ event: 'clock-set', ...moved }, 'the clock of this machine was set; what rollouts count from moved along');
