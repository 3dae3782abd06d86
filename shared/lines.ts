/**
 * Lines as newline-delimited JSON has them (https://github.com/ndjson/ndjson-spec): a line ends with LF and with
 * nothing else. `node:readline` also ends lines at CR, U+2028 and U+2029, which may stand inside a JSON string.
 */

const LF = 0x0a;

/**
 * The lines of a stream of UTF-8, without their LF; a last line needs none. Memory is bounded: a line of more than
 * `lineBytesMax` bytes is given as far as it was read, and is the last one. A byte that is no UTF-8 becomes U+FFFD; a
 * byte order mark stays.
 */
export async function* linesOf(source: AsyncIterable<Uint8Array>, lineBytesMax: number): AsyncGenerator<string> {
  let pieces: Uint8Array[] = [];
  let bytes = 0;
  const take = (): string => {
    const line = Buffer.concat(pieces).toString('utf8');
    [pieces, bytes] = [[], 0];
    return line;
  };
  for await (const chunk of source) {
    let start = 0;
    for (let end = chunk.indexOf(LF); end !== -1; end = chunk.indexOf(LF, start)) {
      pieces.push(chunk.subarray(start, end));
      yield take();
      start = end + 1;
    }
    pieces.push(chunk.subarray(start));
    bytes += chunk.length - start;
    if (bytes > lineBytesMax) break;
  }
  if (bytes > 0) yield take();
}
