/**
 * One agent per data folder. The lock is a socket in Linux's abstract namespace, named by the folder: the kernel gives
 * it to one process, and takes it back however that ends, so that there is no stale lock to clear by hand.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { realpath } from 'node:fs/promises';
import { createServer } from 'node:net';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { errorCode } from '../process/system-error.ts';

export type FolderLock = { release(): Promise<void> };

/**
 * Refuses `conflict` when another agent holds the folder. Not seen: an agent in another network namespace (a
 * container).
 */
export const lockFolder = async (dir: string): Promise<Result<FolderLock>> => {
  // Elsewhere there is no such namespace; devices run Linux, and a developer's laptop may do without.
  if (process.platform !== 'linux') return accept({ release: () => Promise.resolve() });
  const digest = createHash('sha256')
    .update(await realpath(dir))
    .digest('hex');
  const socket = createServer((connection) => connection.destroy());
  socket.listen(`\0sluice-agent-${digest.slice(0, 32)}`);
  try {
    await once(socket, 'listening');
  } catch (error) {
    if (errorCode(error) !== 'EADDRINUSE') throw error;
    return refuse('conflict', `another agent uses the data folder ${dir}`);
  }
  // A local program that opens too many connections harms only itself.
  socket.on('error', () => undefined);
  // It alone must not keep the process alive.
  socket.unref();
  return accept({
    release: async () => {
      socket.close();
      await once(socket, 'close');
    },
  });
};
