/**
 * Serves one file with ranges, also several in one request, and counts what it sends: for downloaders that want a real
 * server.
 */
import { once } from 'node:events';
import { openAsBlob } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';

type Range = { start: number; end: number };
const SEPARATOR = 'sluice-bench-part';

const rangesOf = (header: string | undefined, bytes: number): Range[] =>
  (header?.replace('bytes=', '').split(',') ?? []).map((one) => {
    const [first = '', last = ''] = one.trim().split('-');
    return { start: Number(first), end: last === '' ? bytes : Math.min(bytes, Number(last) + 1) };
  });

export const serveRanges = async (file: string) => {
  const blob = await openAsBlob(file);
  let sent = 0;
  const send = (response: ServerResponse, bytes: Buffer): void => {
    sent += bytes.length;
    response.write(bytes);
  };
  const read = async ({ start, end }: Range): Promise<Buffer> =>
    Buffer.from(await blob.slice(start, end).arrayBuffer());
  const said = ({ start, end }: Range): string => `bytes ${start}-${end - 1}/${blob.size}`;

  const answer = async (header: string | undefined, response: ServerResponse): Promise<void> => {
    const ranges = rangesOf(header, blob.size);
    const [first] = ranges;
    if (first === undefined || ranges.length === 1) {
      const range = first ?? { start: 0, end: blob.size };
      const headers = { 'content-length': range.end - range.start, 'accept-ranges': 'bytes' };
      if (first === undefined) response.writeHead(200, headers);
      else response.writeHead(206, { ...headers, 'content-range': said(range) });
      send(response, await read(range));
    } else {
      response.writeHead(206, { 'content-type': `multipart/byteranges; boundary=${SEPARATOR}` });
      for (const range of ranges) {
        send(response, Buffer.from(`\r\n--${SEPARATOR}\r\ncontent-range: ${said(range)}\r\n\r\n`));
        send(response, await read(range));
      }
      send(response, Buffer.from(`\r\n--${SEPARATOR}--\r\n`));
    }
    response.end();
  };
  const server = createServer((request, response) => {
    answer(request.headers.range, response).catch(() => response.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  return {
    url: `http://127.0.0.1:${address !== null && typeof address === 'object' ? address.port : 0}`,
    /** Of bodies. */
    bytesSent: () => sent,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
};
