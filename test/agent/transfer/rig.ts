/** A server of chunks, indexes and packs that can be made to misbehave, and an agent's download from it. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { onTestFinished } from 'vitest';
import type { Http } from '#agent/server/http.ts';
import type { HttpGet } from '#agent/server/request.ts';
import { request } from '#agent/server/request.ts';
import { type ChunkedOptions, type ChunkedResult, fetchChunked } from '#agent/transfer/fetch-chunked.ts';
import type { Seed } from '#agent/transfer/seeds.ts';
import { Artifact } from '#shared/manifest.ts';
import { encodeIndex } from '#shared/transfer/chunk-index.ts';
import { noise, packOf, recordsOf } from '#test/shared/transfer/bytes.ts';

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Text of a sort: it compresses, and no two seeds' have a chunk in common. */
export const prose = (seed: string, bytes: number): Buffer => {
  const words = noise(seed, 512)
    .toString('base64')
    .match(/.{1,7}/g)!;
  const picks = noise(`${seed}/picks`, Math.ceil(bytes / 4));
  const text = Buffer.from(Array.from(picks, (pick) => words[pick % words.length]).join(' '));
  return text.subarray(0, bytes);
};

/** The same but for so many places. */
export const edited = (old: Buffer, places: number): Buffer => {
  const pieces: Buffer[] = [];
  for (let place = 0; place < places; place += 1) {
    const [start, end] = [place, place + 1].map((n) => Math.floor((n * old.length) / places));
    pieces.push(old.subarray(start, end), Buffer.from(`edit ${place} of ${places}`));
  }
  return Buffer.concat(pieces);
};

type Asked = { path: string; range: string | undefined };
/** Handles the request itself when it returns true. */
type Misbehaviour = (asked: Asked, response: ServerResponse, object: Buffer | undefined) => boolean;

export const seedOf = (bytes: Buffer): Seed => ({
  index: sha256(encodeIndex(recordsOf(bytes))),
  bytes: bytes.length,
  records: recordsOf(bytes),
  read: async (offset, length) => {
    if (offset + length > bytes.length) throw new RangeError('beyond the seed');
    return bytes.subarray(offset, offset + length);
  },
  close: async () => undefined,
});

export const openRig = async (
  fresh: Buffer,
  has: { old?: Buffer; pack?: boolean | 'from nothing'; chunks?: boolean; whole?: boolean } = {},
) => {
  const records = recordsOf(fresh);
  const index = encodeIndex(records);
  const artifact = Artifact.parse({
    name: 'app',
    bytes: fresh.length,
    sha256: sha256(fresh),
    install: { kind: 'file', path: 'app' },
    chunks: { format: 1, index: sha256(index), bytes: index.length },
  });
  const objects = new Map([[sha256(index), index]]);
  if (has.whole !== false) objects.set(artifact.sha256, fresh);
  const chunks = new Set<string>();
  if (has.chunks !== false) {
    let offset = 0;
    for (const { sha256: digest, bytes } of records) {
      objects.set(digest, fresh.subarray(offset, offset + bytes));
      chunks.add(`/o/${digest}`);
      offset += bytes;
    }
  }
  // From the old artifact, if there is one, or as if that pack were not made yet. Not made where no one asks for it.
  const from = has.old === undefined || has.pack === 'from nothing' ? null : has.old;
  const packed = has.pack === false ? Buffer.alloc(0) : packOf(from, fresh, 1);
  const pack = {
    sha256: sha256(packed),
    bytes: packed.length,
    from: from === null ? null : seedOf(from).index,
    level: 3,
  };
  objects.set(pack.sha256, packed);

  const asked: Asked[] = [];
  const state = {
    misbehave: (() => false) as Misbehaviour,
    /** Told instead of the true pack. */
    pack: has.pack === false ? null : pack,
    /** Of bodies. */
    bytesSent: 0,
  };
  const server = createServer((incoming: IncomingMessage, response) => {
    const path = incoming.url ?? '';
    const object = objects.get(path.replace('/o/', ''));
    const one = { path, range: incoming.headers.range };
    asked.push(one);
    if (state.misbehave(one, response, object)) return undefined;
    if (path.startsWith('/device/v1/pack')) return void response.end(JSON.stringify({ pack: state.pack }));
    if (object === undefined) return void response.writeHead(404).end();
    if (chunks.has(path) && incoming.headers['accept-encoding'] === 'zstd') {
      const frame = zstdCompressSync(object);
      state.bytesSent += frame.length;
      return void response.writeHead(200, { 'content-encoding': 'zstd' }).end(frame);
    }
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(incoming.headers.range ?? '') ?? [];
    const [start, end] = first === undefined ? [0, object.length - 1] : [Number(first), Number(last)];
    const headers = { 'content-length': end - start + 1, etag: `"${path.slice(3)}"` };
    if (first === undefined) response.writeHead(200, headers);
    else response.writeHead(206, { ...headers, 'content-range': `bytes ${start}-${end}/${object.length}` });
    const body = object.subarray(start, end + 1);
    state.bytesSent += body.length;
    return void response.end(body);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const url = `http://127.0.0.1:${typeof address === 'object' ? address!.port : 0}`;
  const dir = await mkdtemp(join(tmpdir(), 'sluice-transfer-'));
  onTestFinished(async () => {
    server.closeAllConnections();
    server.close();
    await rm(dir, { recursive: true, force: true });
  });

  const get: HttpGet = (path, headers, signal) => request(url + path, { headers, signal });
  const counts = { bytes: 0, troubles: 0, attempts: 0 };
  const getJson: Http['getJson'] = async (path, schema, signal) => {
    const answer = await get(path, {}, signal);
    const pieces: Uint8Array[] = [];
    for await (const piece of answer.body ?? []) pieces.push(piece);
    if (answer.status !== 200) return { ok: false, answered: true, code: 'not-found', message: 'no' };
    return { ok: true, value: schema.parse(JSON.parse(Buffer.concat(pieces).toString())) };
  };
  const fetch = (more: Partial<ChunkedOptions> = {}): Promise<ChunkedResult> =>
    fetchChunked({
      http: { get, getJson },
      artifact: { ...artifact, chunks: artifact.chunks! },
      dir: join(dir, 'downloads'),
      place: null,
      seeds: has.old === undefined ? [] : [seedOf(has.old)],
      signal: new AbortController().signal,
      pause: async () => {
        counts.attempts += 1;
      },
      mayFetch: async () => true,
      onProgress: () => undefined,
      onBytes: (bytes) => {
        counts.bytes += bytes;
      },
      onTrouble: () => {
        counts.troubles += 1;
      },
      log: { info: () => undefined, warn: () => undefined, error: () => undefined, debug: () => undefined },
      limits: { headersMs: 60_000, windowMs: 60_000, windowBytesMin: 1 },
      ...more,
    });
  /** `whole` when the file is the artifact. */
  const outcome = async (result: ChunkedResult): Promise<string> => {
    if (!result.ok) return result.code;
    return fresh.equals((await readFile(result.file)).subarray(0, fresh.length)) ? 'whole' : 'wrong bytes';
  };
  const part = join(dir, 'downloads', `${artifact.sha256}.part`);
  return {
    dir,
    url,
    artifact,
    records,
    index,
    objects,
    pack,
    packed,
    asked,
    state,
    counts,
    fetch,
    outcome,
    part,
    get,
    getJson,
  };
};

export const writeSlot = async (dir: string, content: Buffer): Promise<string> => {
  const file = join(dir, 'slot');
  await writeFile(file, content);
  return file;
};
