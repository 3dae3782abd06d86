/** Where `sluice login` keeps the server's address and the token, and how every command finds them. */
import { mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { CliFailure, EXIT, usageFailure } from './failure.ts';

const Login = z.strictObject({ url: z.string().max(1024), token: z.string().min(1).max(1024) });
export type Connection = z.infer<typeof Login>;
export const DEFAULT_URL = 'http://127.0.0.1:8080';

/** XDG base directories: `$XDG_CONFIG_HOME/sluice/login.json`, else `~/.config/sluice/login.json`. */
const loginFile = (environment: NodeJS.ProcessEnv): string => {
  const base = environment['XDG_CONFIG_HOME'] ?? '';
  return join(base === '' ? join(homedir(), '.config') : base, 'sluice', 'login.json');
};

/** Readable by no one else. */
export const saveLogin = async (environment: NodeJS.ProcessEnv, login: Connection): Promise<string> => {
  const file = loginFile(environment);
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  await writeFileDurably(file, `${JSON.stringify(login)}\n`, 0o600);
  return file;
};

const readLogin = async (environment: NodeJS.ProcessEnv): Promise<Connection | undefined> => {
  const file = loginFile(environment);
  const bytes = await readFileIfThere(file);
  if (bytes === undefined) return undefined;
  try {
    return Login.parse(JSON.parse(bytes.toString('utf8')));
  } catch (error) {
    throw new CliFailure(`${file} is damaged: log in again with \`sluice login\``, { cause: error });
  }
};

/** `https://host:port`, without a trailing slash; anything but HTTP is refused. */
export const normaliseUrl = (text: string): string => {
  const url = URL.parse(text);
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw usageFailure(`${text} is not an address such as https://sluice.example.com`);
  }
  return `${url.origin}${url.pathname}`.replace(/\/+$/, '');
};

/**
 * Flags before environment (SLUICE_URL, SLUICE_TOKEN) before the login file. The file's token goes to the file's server
 * only: an address given otherwise does not get it.
 */
export const findConnection = async (
  flags: { url?: string; token?: string },
  environment: NodeJS.ProcessEnv,
): Promise<Connection> => {
  const chosen = flags.url ?? environment['SLUICE_URL'];
  const token = flags.token ?? environment['SLUICE_TOKEN'];
  const login = chosen === undefined || token === undefined ? await readLogin(environment) : undefined;
  const url = normaliseUrl(chosen ?? login?.url ?? DEFAULT_URL);
  const found = token ?? (login !== undefined && normaliseUrl(login.url) === url ? login.token : undefined);
  if (found === undefined) {
    const message = `No token for ${url}: log in with \`sluice login ${url}\`, or set SLUICE_TOKEN`;
    throw new CliFailure(message, { exitCode: EXIT.unreachable });
  }
  return { url, token: found };
};
