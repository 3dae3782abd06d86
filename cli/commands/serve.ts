/** `sluice serve`: the server, in this process. One of the two launchers that may import another program. */
import type { Command } from 'commander';
import { environmentName, flagName, loadConfig, SETTINGS, type ServerConfig } from '#server/config.ts';
import type { RunningServer } from '#server/main.ts';
import { withExamples } from '../command.ts';
import { CliFailure, usageFailure } from '../failure.ts';
import { tellParent, untilStopped } from '../running.ts';
import { addSettings, givenSettings } from '../settings.ts';
import { paint, print, printError } from '../terminal.ts';

export const addServe = (program: Command): void => {
  const serve = program
    .command('serve')
    .description(
      'Run the server: API, broker, database and files in one process. The first start makes keys and a token',
    )
    .option('--config <file>', 'configuration, YAML or JSON')
    .option('--print-config', 'print the configuration that all sources together give, and stop');
  addSettings(serve, SETTINGS, { flag: flagName, environment: environmentName });
  serve.action(async (options: { config?: string; printConfig?: boolean }) => {
    const flags = givenSettings(serve, SETTINGS.map(flagName));
    const config = loadConfig({ file: options.config, env: process.env, flags });
    if (!config.ok) throw usageFailure(config.detail);
    if (options.printConfig === true) return print(JSON.stringify(config.value, null, 2));
    const stopped = untilStopped();
    const server = await start(config.value);
    welcome(server, config.value.dataDir);
    const { httpUrl, mqttUrl, adminToken } = server;
    tellParent({ event: 'ready', httpUrl, mqttUrl, adminToken });
    if (!stopped.aborted) await new Promise((resolve) => stopped.addEventListener('abort', resolve, { once: true }));
    await server.stop();
  });
  withExamples(serve, [
    ['On this machine', 'sluice serve'],
    ['For a fleet', 'sluice serve --data-dir /var/lib/sluice --http-host 0.0.0.0 --mqtt-host 0.0.0.0'],
    ['From a file, the way it will be understood', 'sluice serve --config sluice.yaml --print-config'],
  ]);
};

const start = async (config: ServerConfig): Promise<RunningServer> => {
  const { startServer } = await import('#server/main.ts');
  const { StartFailure } = await import('#server/start-failure.ts');
  try {
    return await startServer(config);
  } catch (error) {
    throw error instanceof StartFailure ? new CliFailure(error.message, { cause: error }) : error;
  }
};

/** To standard error, because standard output is the log. */
const welcome = (server: RunningServer, dataDir: string): void => {
  printError(`\nSluice listens on ${paint.bold(server.httpUrl)} (devices: ${server.mqttUrl}). Ctrl-C stops it.`);
  if (server.adminToken === null) return;
  printError(`
This was the first start. All keys were made in ${dataDir}, and this token for the administrator:

  ${paint.bold(server.adminToken)}

It is shown only now, and is also in ${dataDir}/admin-token: delete that file when you have it.
Next, in another terminal:

  sluice login ${server.httpUrl}
  sluice key new --out ci.pem                          # the key that CI signs with
  sluice product create gateway --key ci.pub.pem
  sluice device token --device gw-01                   # lets a device in: sluice agent --help

Anyone with the keys in ${dataDir} can sign for this fleet: move root and targets keys offline before it is in earnest (docs/operations.md).
`);
};
