/** `node agent/main.ts`: the agent without the rest of Sluice, for devices. */
import { parseArgs } from 'node:util';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { AGENT_SETTINGS, type AgentConfig, agentEnvironmentName, agentFlagName, loadAgentConfig } from './config.ts';

const usage = (): string => {
  const settings = AGENT_SETTINGS.map(
    (setting) => `  --${agentFlagName(setting).padEnd(24)}${agentEnvironmentName(setting)}`,
  );
  return [
    'Usage: node agent/main.ts [--config FILE] [settings]',
    '',
    'Each setting is a flag, a variable, or a key in the JSON file:',
    ...settings,
    '',
  ].join('\n');
};

/** `help` is the text to print instead of running. */
export const readCommandLine = (
  args: string[],
  env: Record<string, string | undefined>,
): Result<{ config: AgentConfig } | { help: string }> => {
  const names = AGENT_SETTINGS.map(agentFlagName);
  let values: Record<string, string | boolean | undefined>;
  try {
    const text = { type: 'string' as const };
    const options = {
      ...Object.fromEntries(names.map((name) => [name, text])),
      config: text,
      help: { type: 'boolean' as const, short: 'h' },
    };
    values = parseArgs({ args, options, strict: true }).values;
  } catch (error) {
    return refuse('invalid-request', error instanceof Error ? error.message : String(error));
  }
  if (values['help'] === true) return accept({ help: usage() });
  const flags = Object.fromEntries(
    names.flatMap((name) => (typeof values[name] === 'string' ? [[name, values[name]]] : [])),
  );
  const file = typeof values['config'] === 'string' ? values['config'] : undefined;
  const config = loadAgentConfig({ file, env, flags });
  return config.ok ? accept({ config: config.value }) : config;
};
