import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { onTestFinished } from 'vitest';

/** Starts the launcher again whenever it ends, as systemd does. */
export const keepRunning = ([word, ...words]: string[]) => {
  let child: ReturnType<typeof spawn> | undefined;
  const stopping = new AbortController();
  const output: string[] = [];
  const ended = (async () => {
    while (!stopping.signal.aborted) {
      child = spawn(word!, words, { stdio: ['ignore', 'pipe', 'pipe'] });
      for (const stream of [child.stdout!, child.stderr!])
        stream.on('data', (piece: Buffer) => output.push(piece.toString()));
      await once(child, 'close');
    }
  })();
  onTestFinished(async () => {
    stopping.abort();
    child?.kill('SIGKILL');
    await ended;
  });
  return {
    kill: () => child?.kill('SIGKILL'),
    pid: () => child?.pid,
    lines: () => output.join(''),
    starts: () => output.join('').split('"agent-started"').length - 1,
    stop: async () => {
      stopping.abort();
      child?.kill('SIGTERM');
      await ended;
    },
  };
};
