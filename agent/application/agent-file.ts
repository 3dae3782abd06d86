/**
 * The agent as a file: a script for the Node that runs this agent, or a program that has a Node in it (docs/agent.md).
 */
import { realpathSync } from 'node:fs';
import { constants, open } from 'node:fs/promises';
import { isSea } from 'node:sea';

/** What runs now. */
export const ownAgentFile = (): string => (isSea() ? process.execPath : realpathSync(process.argv[1] ?? ''));

/** The first report of a command that means the Node of this agent, where it has one to lend. */
export const NODE_OF_AGENT: string | undefined = isSea() ? undefined : process.execPath;

export type AgentCommand = { ok: true; command: string[] } | { ok: false; why: string };

/** How this agent becomes the one in a file, or why it cannot. */
export const commandOf = async (file: string): Promise<AgentCommand> => {
  const kind = await kindOf(file);
  if (kind === 'missing') return { ok: false, why: 'there is no such file' };
  if (kind === 'program') return { ok: true, command: [file] };
  if (kind === 'not-executable') return { ok: false, why: 'it is a program, but not marked as executable' };
  if (NODE_OF_AGENT === undefined)
    return { ok: false, why: 'it is a script, and this agent is a program without Node' };
  return { ok: true, command: [NODE_OF_AGENT, ...process.execArgv, file] };
};

const kindOf = async (file: string): Promise<'missing' | 'script' | 'program' | 'not-executable'> => {
  // A link could lead to what no one has signed.
  const handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    () => undefined,
  );
  if (handle === undefined) return 'missing';
  try {
    const [stats, { buffer }] = [await handle.stat(), await handle.read(Buffer.alloc(4), 0, 4, 0)];
    if (!stats.isFile()) return 'missing';
    if (buffer.toString('latin1') !== '\u007fELF') return 'script';
    return (stats.mode & 0o111) === 0 ? 'not-executable' : 'program';
  } finally {
    await handle.close();
  }
};
