/** What the commands have in common: how they find the server, what they print for scripts, and their examples. */
import type { Command } from 'commander';
import type { Client } from './client.ts';
import { findConnection } from './login-file.ts';
import { openProxiedClient } from './proxied-client.ts';

/** The flags of every command that talks to a server. */
export type ServerFlags = { url?: string; token?: string; json?: boolean };

/** Adds `--url`, `--token` and `--json`. */
export const withServer = (command: Command): Command =>
  command
    .option('--url <url>', 'the server (default: SLUICE_URL, the login, http://127.0.0.1:8080)')
    .option('--token <token>', 'who you are (default: SLUICE_TOKEN, the login)')
    .option('--json', 'print JSON for scripts, times in milliseconds');

export const connect = async (flags: ServerFlags): Promise<Client> =>
  openProxiedClient(
    await findConnection(
      {
        ...(flags.url === undefined ? {} : { url: flags.url }),
        ...(flags.token === undefined ? {} : { token: flags.token }),
      },
      process.env,
    ),
  );

/** Examples after the help of a command: each a comment and what to type. */
export const withExamples = (command: Command, examples: [what: string, line: string][]): Command =>
  command.addHelpText(
    'after',
    `\nExamples:\n${examples.map(([what, line]) => `  # ${what}\n  $ ${line}`).join('\n')}\n`,
  );
