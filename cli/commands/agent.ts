/** `sluice agent`: a device's agent, in this process. One of the two launchers that may import another program. */
import type { Command } from 'commander';
import { AGENT_SETTINGS, agentEnvironmentName, agentFlagName, loadAgentConfig } from '#agent/config/config.ts';
import { withExamples } from '../command.ts';
import { usageFailure } from '../failure.ts';
import { untilStopped } from '../running.ts';
import { addSettings, givenSettings } from '../settings.ts';
import { print } from '../terminal.ts';

export const addAgent = (program: Command): void => {
  const agent = program
    .command('agent')
    .description(
      'Run a device: enrol, install what the server desires into the standby slot, prove it healthy or go back',
    )
    .argument('[question]', 'check, status or unit: as the options of these names')
    .option('--config <file>', 'configuration, JSON')
    .option('--check', 'say whether this device is fit, and stop; exit code 1: it is not')
    .option('--status', 'say what the agent of this device does, and stop; exit code 1: it does not run')
    .option('--unit', 'print a systemd unit for this configuration, and stop')
    .option('--json', 'print what was asked as JSON for scripts')
    .option('--print-config', 'print the configuration that all sources together give, and stop');
  addSettings(
    agent,
    AGENT_SETTINGS,
    { flag: agentFlagName, environment: agentEnvironmentName },
    { serverUrl: 'server' },
  );
  agent.action(
    async (
      word: string | undefined,
      options: {
        config?: string;
        printConfig?: boolean;
        json?: boolean;
        check?: boolean;
        unit?: boolean;
        status?: boolean;
      },
    ) => {
      const flags = givenSettings(agent, AGENT_SETTINGS.map(agentFlagName));
      const config = loadAgentConfig({ file: options.config, env: process.env, flags });
      if (!config.ok) throw usageFailure(config.detail);
      if (options.printConfig === true) {
        const { token, ...shown } = config.value;
        return print(JSON.stringify(token === undefined ? shown : { ...shown, token: '(set)' }, null, 2));
      }
      const { runAgentCommand, isAgentCommand, AGENT_COMMANDS } = await import('#agent/local/agent-commands.ts');
      if (word !== undefined && !isAgentCommand(word))
        throw usageFailure(`unknown word ${word}: ${AGENT_COMMANDS.join(', ')}`);
      const question = word ?? AGENT_COMMANDS.find((name) => options[name] === true);
      if (question !== undefined) {
        const answer = await runAgentCommand(question, config.value, {
          asJson: options.json === true,
          configFile: options.config,
          flags,
        });
        process.stdout.write(answer.text);
        process.exitCode = answer.exitCode;
        return;
      }
      const stopped = untilStopped();
      const { runAgent } = await import('#agent/main.ts');
      await runAgent(config.value, stopped);
    },
  );
  withExamples(agent, [
    [
      'A gateway, with a token from `sluice device token`',
      'sluice agent --server https://sluice.example.com --device gw-01 --compatible gw-arm --token sle_... --application-port 8090',
    ],
    ['Is this device fit for it?', 'sluice agent check --config /etc/sluice-agent.json'],
    ['What does it do?', 'sluice agent status --config /etc/sluice-agent.json'],
    ['Without a token it waits until an operator accepts it', 'sluice agent --config /etc/sluice-agent.json'],
  ]);
};
