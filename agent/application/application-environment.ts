/** What the application is started with: its command, and its environment. */
import { delimiter, dirname } from 'node:path';
import { NODE_OF_AGENT } from './agent-file.ts';

const INHERITED = ['HOME', 'LANG', 'LC_ALL', 'TZ', 'TMPDIR', 'USER'];

/** The environment of an application, and of commands that check it: little of the agent's, then `more`. */
export const applicationEnvironment = (
  more: Record<string, string>,
  port: number | undefined,
): Record<string, string> => {
  const inherited = INHERITED.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]]));
  // The agent's Node comes first, so that `node` and `#!/usr/bin/env node` inside scripts mean the same one.
  const path = [dirname(process.execPath), process.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin'].join(delimiter);
  return {
    ...Object.fromEntries(inherited),
    PATH: path,
    ...(port === undefined ? {} : { PORT: String(port) }),
    ...more,
  };
};

/**
 * `node` as a command word is the Node that runs the agent; of an agent that is a program of its own, the first one in
 * `PATH`.
 */
export const resolveCommand = (command: string[]): string[] =>
  command[0] === 'node' && NODE_OF_AGENT !== undefined ? [NODE_OF_AGENT, ...command.slice(1)] : command;
