/** Asks the agent that runs, over its own socket (docs/local-api.md). */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';

const ANSWER_MS_MAX = 2_000;
const ANSWER_BYTES_MAX = 256 * 1024;

/** What it says of its state; undefined when it does not answer. */
export const askState = async (socketPath: string): Promise<unknown> => {
  const signal = AbortSignal.timeout(ANSWER_MS_MAX);
  const asking = process.getBuiltinModule('node:http').get({ socketPath, path: '/v1/state', agent: false, signal });
  try {
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- what this event always comes with
    const [answer] = (await once(asking, 'response')) as [IncomingMessage];
    const pieces: Buffer[] = [];
    let bytes = 0;
    for await (const piece of answer) {
      const buffer = Buffer.from(piece);
      bytes += buffer.length;
      if (bytes > ANSWER_BYTES_MAX) return undefined;
      pieces.push(buffer);
    }
    return answer.statusCode === 200 ? JSON.parse(Buffer.concat(pieces).toString('utf8')) : undefined;
  } catch {
    return undefined;
  } finally {
    asking.on('error', () => undefined);
    asking.destroy();
  }
};
