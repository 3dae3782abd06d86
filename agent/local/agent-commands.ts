/**
 * What may be asked of an agent's folder and configuration instead of running it, by `sluice agent` and by the agent's
 * own program.
 */
import { basename, resolve } from 'node:path';
import { unreachable } from '#shared/ids.ts';
import { NODE_OF_AGENT, ownAgentFile } from '../application/agent-file.ts';
import type { AgentConfig } from '../config/config.ts';
import { examineDevice, fitnessText } from '../fitness/fitness.ts';
import { readStatus } from './status-text.ts';
import { type UnitPlaces, unitText } from './systemd-unit.ts';

export const AGENT_COMMANDS = ['check', 'status', 'unit'] as const;
export type AgentCommand = (typeof AGENT_COMMANDS)[number];

export const isAgentCommand = (word: string | undefined): word is AgentCommand =>
  AGENT_COMMANDS.some((known) => known === word);

/** Exit code 0: all is well; 1: it is not. */
export type Answer = { text: string; exitCode: 0 | 1 };

export const runAgentCommand = async (
  command: AgentCommand,
  config: AgentConfig,
  how: { asJson: boolean; configFile: string | undefined; flags: Record<string, string | undefined> },
): Promise<Answer> => {
  switch (command) {
    case 'check': {
      const fitness = await examineDevice(config, Date.now);
      const text = how.asJson ? `${JSON.stringify(fitness)}\n` : fitnessText(fitness);
      return { text, exitCode: fitness.fit ? 0 : 1 };
    }
    case 'status': {
      const read = await readStatus(config.dataDir, Date.now(), config.local.socket);
      if (read === undefined) return { text: `no agent has run in ${config.dataDir}\n`, exitCode: 1 };
      const { alive, status, text } = read;
      return { text: how.asJson ? `${JSON.stringify({ alive, status })}\n` : text, exitCode: alive ? 0 : 1 };
    }
    case 'unit':
      return { text: unitText(config, unitPlaces(how), process.env), exitCode: 0 };
    default:
      return unreachable(command);
  }
};

/** The whole of Sluice was asked, or the agent's own program. */
const unitPlaces = (given: Pick<UnitPlaces, 'flags' | 'configFile'>): UnitPlaces => {
  const file = ownAgentFile();
  const isOwn = !basename(file).startsWith('sluice.');
  const configFile = given.configFile === undefined ? undefined : resolve(given.configFile);
  return { node: NODE_OF_AGENT, program: file, words: isOwn ? [] : ['agent'], configFile, flags: given.flags };
};
