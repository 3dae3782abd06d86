/**
 * `node server/main.ts [flags]`: the server without the rest of the command line, for containers and service managers.
 */
import { parseArgs } from 'node:util';
import { environmentName, flagName, loadConfig, SETTINGS, type ServerConfig } from './config.ts';
import { StartFailure } from './start-failure.ts';

type Running = { httpUrl: string; mqttUrl: string; adminToken: string | null; stop(): Promise<void> };

/** How long after the end of the grace period a stop may hang before the process ends anyway. */
const HANG_MS = 5_000;

const say = (text: string): void => void process.stderr.write(`${text}\n`);

/**
 * Runs until SIGTERM or SIGINT; a second signal ends the process at once. Sets the exit code: 1 failed, 2 wrong usage.
 */
export const runServer = async (args: string[], start: (config: ServerConfig) => Promise<Running>): Promise<void> => {
  const given = readArguments(args);
  if (given === undefined) {
    process.exitCode = 2;
    return;
  }
  if (given.help) return say(help());
  const config = loadConfig({ file: given.config, env: process.env, flags: given.flags });
  if (!config.ok) {
    say(config.detail);
    process.exitCode = 2;
    return;
  }
  if (given.printConfig) {
    process.stdout.write(`${JSON.stringify(config.value, null, 2)}\n`);
    return;
  }
  const signal = firstSignal();
  try {
    const server = await start(config.value);
    welcome(server, config.value.dataDir);
    await signal;
    const hang = setTimeout(() => process.exit(1), config.value.stopMs + HANG_MS);
    await server.stop();
    clearTimeout(hang);
  } catch (error) {
    // Words for people when it is a matter of how the server was started; all there is when it is a bug.
    if (error instanceof StartFailure) say(error.message);
    else say(error instanceof Error ? String(error.stack) : String(error));
    process.exitCode = 1;
    // Whatever is open still must not keep a server alive that serves nothing.
    setTimeout(() => process.exit(), HANG_MS).unref();
  }
  for (const name of SIGNALS) process.removeAllListeners(name);
};

const SIGNALS = ['SIGTERM', 'SIGINT'] as const;

const firstSignal = (): Promise<void> => {
  const first = Promise.withResolvers<void>();
  let count = 0;
  for (const name of SIGNALS) {
    process.on(name, () => {
      count += 1;
      if (count > 1) process.exit(130);
      first.resolve();
    });
  }
  return first.promise;
};

const readArguments = (args: string[]) => {
  const settings = Object.fromEntries(SETTINGS.map((setting) => [flagName(setting), { type: 'string' as const }]));
  try {
    const { values } = parseArgs({
      args,
      options: {
        ...settings,
        config: { type: 'string' },
        'print-config': { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
    const { config, 'print-config': printConfig, help, ...rest } = values;
    const flags = Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, String(value)]));
    return { flags, config, printConfig: printConfig === true, help: help === true };
  } catch (error) {
    say(`${error instanceof Error ? error.message : String(error)}\n\n${help()}`);
    return undefined;
  }
};

const help = (): string => {
  const lines = SETTINGS.map((setting) => `  --${flagName(setting).padEnd(34)} ${environmentName(setting)}`);
  return [
    'Usage: node server/main.ts [--config FILE] [--print-config] [settings]',
    '',
    'Each setting may also come from the file, or from the environment (docs/operations.md):',
    ...lines,
  ].join('\n');
};

/** To standard error: standard output is the log. */
const welcome = ({ httpUrl, mqttUrl, adminToken }: Running, dataDir: string): void => {
  say(`Sluice listens on ${httpUrl} (devices: ${mqttUrl}). Data: ${dataDir}`);
  if (adminToken === null) return;
  say(
    [
      '',
      `This was the first start: all keys were made in ${dataDir}, and this token for the administrator, shown only now`,
      `(it is also in ${dataDir}/admin-token; delete that file when you have it):`,
      '',
      `  ${adminToken}`,
      '',
      `Next: npx sluice login ${httpUrl}`,
      '',
    ].join('\n'),
  );
};
