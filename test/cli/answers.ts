/** A server that gives every request the same answer, to see what the answer makes of the command. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';

/** Its address, for the rest of the test. A function answers by path. */
export const serveAnswer = async (
  status: number,
  body: object | string | ((path: string) => unknown),
): Promise<string> => {
  const server = createServer((request, response) => {
    const answer: unknown = typeof body === 'function' ? body(request.url ?? '') : body;
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
  });
  onTestFinished(() => void server.close());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
};
