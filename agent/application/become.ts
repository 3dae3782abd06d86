/**
 * Becoming another user with all of their groups. `spawn` drops every supplementary group when it changes the user, and
 * neither `setpriv` nor a `su` that keeps the process is on every device: a Node of its own sets them and then becomes
 * the command, for 25 ms and 40 MB.
 */
import { NODE_OF_AGENT } from './agent-file.ts';
import type { ProcessOwner } from './process-owner.ts';

/** The first argument of an agent that is a program of its own, and so has no Node to lend. */
export const BECOME = 'become-application';

/**
 * Runs as root and alone, also from its source: it knows nothing but its arguments. The command's environment comes
 * over standard input, behind its length: it is the release's, and `NODE_OPTIONS` or `LD_PRELOAD` in it must not be
 * root's.
 */
export function becomeUser(words: string[]): void {
  const { readSync, writeSync } = process.getBuiltinModule('node:fs');
  const read = (bytes: number): string => {
    const buffer = Buffer.alloc(bytes);
    for (let at = 0; at < bytes; ) {
      const more = readSync(0, buffer, at, bytes - at, null);
      // The agent is gone.
      if (more === 0) process.exit(125);
      at += more;
    }
    return buffer.toString('utf8');
  };
  const [uid, gid, groups, ...command] = words;
  try {
    const environment = JSON.parse(read(Number(read(10))));
    process.setgroups!(groups!.split(',').map(Number));
    process.setgid!(Number(gid));
    process.setuid!(Number(uid));
    process.execve!(command[0]!, command, environment);
  } catch (error) {
    writeSync(2, `the application cannot become user ${uid} with its groups: ${String(error)}\n`);
    process.exit(125);
  }
}

export type Becoming = {
  /** Starts what becomes the command. */
  words: string[];
  /** To be written to its standard input first. */
  input: Buffer;
};

export const becoming = (
  { uid, gid, groups }: ProcessOwner,
  command: string[],
  environment: Record<string, string>,
): Becoming => {
  const text = Buffer.from(JSON.stringify(environment));
  const start =
    NODE_OF_AGENT === undefined
      ? [process.execPath, BECOME]
      : [NODE_OF_AGENT, '-e', `(${becomeUser.toString()})(process.argv.slice(1))`, '--'];
  return {
    words: [...start, String(uid), String(gid), groups.join(), ...command],
    input: Buffer.concat([Buffer.from(String(text.length).padStart(10)), text]),
  };
};
