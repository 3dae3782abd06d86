/** `node agent/main.ts`: the agent without the rest of Sluice, for devices. */
import { parseArgs } from 'node:util';
import { accept, type Result, refuse } from '#shared/problems.ts';
import {
  AGENT_SETTINGS,
  type AgentConfig,
  agentEnvironmentName,
  agentFlagName,
  loadAgentConfig,
} from '../config/config.ts';
import { AGENT_VERSION } from '../config/version.ts';
import { AGENT_COMMANDS, type AgentCommand, isAgentCommand } from '../local/agent-commands.ts';

const usage = (): string => {
  const settings = AGENT_SETTINGS.map(
    (setting) => `  --${agentFlagName(setting).padEnd(28)}${agentEnvironmentName(setting)}`,
  );
  return [
    'Usage: sluice-agent [--config FILE] [settings]              run the agent',
    '       sluice-agent check [--json] [--config FILE] ...    is this device fit? Changes nothing; exit code 1: it is not',
    '       sluice-agent status [--json] [--config FILE] ...   what does the agent do? Exit code 1: it does not run',
    '       sluice-agent unit --config FILE ...                print a systemd unit for it',
    '       sluice-agent --launch --config FILE ...            run the agent that the running release brings along',
    '       sluice-agent --version',
    '',
    'Each setting is a flag, a variable, or a key in the JSON file:',
    ...settings,
    '',
  ].join('\n');
};

/** `question`: to be answered instead of running. `print` is the text to print instead. */
type CommandLine =
  | {
      config: AgentConfig;
      command: AgentCommand | undefined;
      asJson: boolean;
      configFile: string | undefined;
      /** Settings of the command line, by flag name. */
      flags: Record<string, string>;
      launch: boolean;
    }
  | { print: string };

export const readCommandLine = (args: string[], env: Record<string, string | undefined>): Result<CommandLine> => {
  const names = AGENT_SETTINGS.map(agentFlagName);
  let values: Record<string, string | boolean | undefined>;
  try {
    const [text, flag] = [{ type: 'string' as const }, { type: 'boolean' as const }];
    const options = {
      ...Object.fromEntries(names.map((name) => [name, text])),
      ...Object.fromEntries(AGENT_COMMANDS.map((name) => [name, flag])),
      config: text,
      json: flag,
      launch: flag,
      help: { ...flag, short: 'h' },
      version: flag,
    };
    const parsed = parseArgs({ args, options, strict: true, allowPositionals: true });
    values = parsed.values;
    // `sluice-agent status` is `sluice-agent --status`.
    const strange = parsed.positionals.find((word) => !isAgentCommand(word));
    if (strange !== undefined)
      return refuse('invalid-request', `unknown word ${strange}: ${AGENT_COMMANDS.join(', ')}`);
    for (const word of parsed.positionals) values[word] = true;
  } catch (error) {
    return refuse('invalid-request', error instanceof Error ? error.message : String(error));
  }
  if (values['help'] === true) return accept({ print: usage() });
  if (values['version'] === true) return accept({ print: `${AGENT_VERSION}\n` });
  const flags: Record<string, string> = {};
  for (const name of names) if (typeof values[name] === 'string') flags[name] = values[name];
  const file = typeof values['config'] === 'string' ? values['config'] : undefined;
  const config = loadAgentConfig({ file, env, flags });
  if (!config.ok) return config;
  const command = AGENT_COMMANDS.find((name) => values[name] === true);
  return accept({
    config: config.value,
    command,
    asJson: values['json'] === true,
    configFile: file,
    flags,
    launch: values['launch'] === true,
  });
};
