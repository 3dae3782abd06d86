/**
 * The agent's own log: one JSON object a line, or lines for people on a terminal. Every line carries an `event` name.
 */
import { type Logger, pino } from 'pino';
import type { AgentConfig } from './config/config.ts';
import { hasEnded } from './domain/install.ts';
import type { InstallState } from './domain/install-state.ts';

export type Log = Pick<Logger, 'debug' | 'info' | 'warn' | 'error'>;

/**
 * Synchronous, so that the last words of an agent that ends are not lost. Writing never throws: a log that can't be
 * written is not fatal.
 */
export const makeAgentLog = async (
  config: AgentConfig['log'],
  deviceId: string,
  /** Gets every line, as JSON. */
  onLine: (line: string) => void = () => undefined,
): Promise<Logger> => {
  const also = (stream: { write(line: string): unknown }) => ({
    write: (line: string) => {
      onLine(line);
      stream.write(line);
    },
  });
  const options = { level: config.level, base: { deviceId }, timestamp: pino.stdTimeFunctions.isoTime };
  if (!(config.pretty ?? process.stdout.isTTY)) {
    const stream = pino.destination({ dest: 1, sync: true });
    // A full disk or a closed pipe (faults 18).
    stream.on('error', () => undefined);
    return pino(options, also(stream));
  }
  const { default: pretty } = await import('pino-pretty');
  return pino(
    options,
    also(
      pretty({
        colorize: process.stdout.isTTY,
        sync: true,
        translateTime: 'SYS:HH:MM:ss',
        ignore: 'event,deviceId,deployment,state',
      }),
    ),
  );
};

/** One line when a state is entered: what a person follows. Returns the sentence. */
export const tellState = (log: Log, install: InstallState): string => {
  if (install.state === 'idle') {
    log.info({ event: 'state-entered', state: install.state }, 'idle');
    return 'idle';
  }
  const { deployment, product, version } = install.offer.install;
  const why = 'error' in install ? `: ${install.error.code}: ${install.error.message}` : '';
  const slot = 'slot' in install ? ` (slot ${install.slot})` : '';
  const fields = { event: 'state-entered', state: install.state, deployment, release: `${product}@${version}` };
  const sentence = `${product}@${version}: ${install.state}${slot}${why}`;
  if ('error' in install && !hasEnded(install)) log.warn(fields, sentence);
  else log.info(fields, sentence);
  return sentence;
};
