/** `sluice login`: remember a server and who you are to it. */
import { createInterface } from 'node:readline/promises';
import type { Command } from 'commander';
import { routes } from '#shared/api.ts';
import { withExamples } from '../command.ts';
import { usageFailure } from '../failure.ts';
import { DEFAULT_URL, normaliseUrl, saveLogin } from '../login-file.ts';
import { openProxiedClient } from '../proxied-client.ts';
import { print, printJson } from '../terminal.ts';

export const addLogin = (program: Command): void => {
  const login = program
    .command('login')
    .description('Remember a server and a token, after trying them')
    .argument('[url]', `the server (default: SLUICE_URL, ${DEFAULT_URL})`)
    .option('--url <url>', 'the server, as the other commands name it')
    .option('--token <token>', 'the token (default: SLUICE_TOKEN, else it is asked for, or read from standard input)')
    .option('--json', 'print JSON for scripts')
    .action(async (server: string | undefined, options: { url?: string; token?: string; json?: boolean }) => {
      if (server !== undefined && options.url !== undefined) throw usageFailure('the server is named twice');
      const url = normaliseUrl(server ?? options.url ?? process.env['SLUICE_URL'] ?? DEFAULT_URL);
      const token = options.token ?? process.env['SLUICE_TOKEN'] ?? (await askToken());
      const who = await openProxiedClient({ url, token }).call(routes.whoami, {});
      const file = await saveLogin(process.env, { url, token });
      if (options.json === true) return printJson({ url, ...who, file });
      print(`Logged in to ${url} as ${who.name} (${who.role}).\nKept in ${file}, which only you can read.`);
    });
  withExamples(login, [
    ['Asks for the token, so that it stays out of the shell history', 'sluice login https://sluice.example.com'],
    ['From a password manager', 'pass sluice/token | sluice login https://sluice.example.com'],
  ]);
};

const TOKEN_CHARS_MAX = 1024;
const askToken = async (): Promise<string> => {
  const lines = createInterface({ input: process.stdin, output: process.stderr, terminal: process.stdin.isTTY });
  try {
    if (process.stdin.isTTY) return checkToken(await lines.question('Token: '));
    for await (const line of lines) return checkToken(line);
  } finally {
    lines.close();
  }
  throw usageFailure('no token: give --token, set SLUICE_TOKEN, or write it to standard input');
};
const checkToken = (text: string): string => {
  const token = text.trim();
  if (token === '' || token.length > TOKEN_CHARS_MAX) throw usageFailure('that is no token');
  return token;
};
