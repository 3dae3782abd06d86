/**
 * How fast an artifact is assembled from a pack, and from the version before: over HTTP into a file, against a floor in
 * the same run that does the same work and nothing else (read a frame, decompress, SHA-256, write; an fsync at the
 * end). Each in a process of its own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { hash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { mkdir, mkdtemp, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { request } from '#agent/server/request.ts';
import { type ChunkedArtifact, fetchChunked } from '#agent/transfer/fetch-chunked.ts';
import { readPlain } from '#agent/transfer/kept-frames.ts';
import type { Seed } from '#agent/transfer/seeds.ts';
import { Artifact } from '#shared/manifest.ts';
import { type ChunkRecord, encodeIndex, openIndexer, parseIndex } from '#shared/transfer/chunk-index.ts';
import { type ArtifactReader, makePack } from '#shared/transfer/make-pack.ts';
import {
  openFrame,
  PACK_HEADER_BYTES,
  PACK_KINDS,
  packHeadBytes,
  parsePackHead,
  parsePackHeader,
} from '#shared/transfer/pack.ts';
import { type Figure, figure } from './figure.ts';

export const name = 'fetch';

const MEBIBYTE = 1024 * 1024;
const BYTES = 286 * MEBIBYTE;
const ROUNDS = 3;

const SERVER = `
  import { createReadStream, statSync } from 'node:fs';
  import { createServer } from 'node:http';
  createServer((request, response) => {
    const file = process.argv[1] + request.url.replace('/o/', '/');
    const [, first, last] = /^bytes=(\\d+)-(\\d+)$/.exec(request.headers.range ?? '') ?? [];
    const { size } = statSync(file);
    const [start, end] = first === undefined ? [0, size - 1] : [Number(first), Number(last)];
    response.writeHead(first === undefined ? 200 : 206, { 'content-length': end - start + 1, 'content-range': 'bytes ' + start + '-' + end + '/' + size });
    createReadStream(file, { start, end, highWaterMark: 1048576 }).pipe(response);
  }).listen(0, '127.0.0.1', function () { console.log(this.address().port); });`;

/** What a process of its own is to do. */
type Job = {
  kind: 'floor' | 'agent';
  dir: string;
  url: string;
  artifact: ChunkedArtifact;
  pack: { sha256: string; bytes: number; from: string | null; level: number };
  old: { file: string; index: string; bytes: number } | null;
  out: string;
};
type Done = { ms: number; cpuMs: number; rssMB: number; bytesFetched: number };

/** Medians of the rounds. */
export const run = async (): Promise<Figure[]> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-bench-'));
  let server: ChildProcess | undefined;
  try {
    await mkdir(join(dir, 'objects'));
    const jobs = await prepare(dir);
    server = spawn(process.execPath, ['--input-type=module', '-e', SERVER, join(dir, 'objects')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [port] = await once(server.stdout!, 'data');
    const url = `http://127.0.0.1:${String(port).trim()}`;
    const figures: Figure[] = [];
    for (const { what, job } of jobs) {
      const rounds: { floor: Done; agent: Done }[] = [];
      for (let round = 0; round < ROUNDS; round += 1) {
        const of = (kind: Job['kind']) => inProcess({ ...job, kind, url, out: join(dir, `${kind}-${round}`) });
        rounds.push({ floor: await of('floor'), agent: await of('agent') });
        for (const kind of ['floor', 'agent']) await rm(join(dir, `${kind}-${round}`), { recursive: true });
      }
      const speed = (kind: Job['kind']): number =>
        Math.round(BYTES / 1e3 / median(rounds.map((round) => round[kind].ms)));
      const cpu = (kind: Job['kind']): number => median(rounds.map((round) => round[kind].cpuMs));
      figures.push(
        figure(`${what}: the floor`, speed('floor'), 'MB/s'),
        figure(`${what}: the agent`, speed('agent'), 'MB/s', speed('agent') / speed('floor')),
        figure(`${what}: the agent's processor time`, cpu('agent'), 'ms', cpu('floor') / cpu('agent')),
        figure(`${what}: fetched`, (rounds[0]?.agent.bytesFetched ?? 0) / 1e6, 'MB'),
        figure(`${what}: resident memory of the process`, median(rounds.map(({ agent }) => agent.rssMB)), 'MB'),
      );
    }
    return figures;
  } finally {
    server?.kill('SIGKILL');
    await rm(dir, { recursive: true, force: true });
  }
};

const median = (values: number[]): number => values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!;

/** Lines such as programs write into logs: about a fifth of it is left when compressed. */
const writeText = async (file: string, seed: number): Promise<void> => {
  const handle = await open(file, 'w');
  let state = seed;
  const random = (): number => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0);
  for (let written = 0; written < BYTES; ) {
    let lines = '';
    while (lines.length < MEBIBYTE)
      lines += `2026-11-21T14:${random() % 60}:${random() % 60} gateway[${random() % 9_999}] sensor ${random() % 64} reads ${random()} after ${random() % 1_000} ms\n`;
    const piece = Buffer.from(lines.slice(0, Math.min(MEBIBYTE, BYTES - written)));
    await handle.writeFile(piece);
    written += piece.length;
  }
  await handle.sync();
  await handle.close();
};

const indexOf = async (file: string): Promise<{ records: ChunkRecord[]; sha256: string }> => {
  const indexer = openIndexer();
  const handle = await open(file, 'r');
  for await (const piece of handle.createReadStream({ highWaterMark: MEBIBYTE })) indexer.push(piece as Buffer);
  return { records: indexer.end(), sha256: file.split('/').at(-1)! };
};

const readerOf = (file: string): ArtifactReader => {
  const fd = openSync(file, 'r');
  return {
    bytes: BYTES,
    read: (offset, bytes) => {
      const found = Buffer.allocUnsafe(bytes);
      readSync(fd, found, 0, bytes, offset);
      return found;
    },
  };
};

const prepare = async (dir: string): Promise<{ what: string; job: Omit<Job, 'kind' | 'url' | 'out'> }[]> => {
  const [old, fresh] = [join(dir, 'old'), join(dir, 'new')];
  await writeText(old, 1);
  // One byte in every two megabytes is another.
  await writeFile(fresh, await readFile(old));
  const handle = await open(fresh, 'r+');
  for (let at = MEBIBYTE; at < BYTES; at += 2 * MEBIBYTE) await handle.write('#', at);
  await handle.close();
  const [{ records: oldRecords }, { records }] = [await indexOf(old), await indexOf(fresh)];
  const index = encodeIndex(records);
  const oldIndex = encodeIndex(oldRecords);
  await writeFile(join(dir, 'objects', hash('sha256', index)), index);
  await writeFile(join(dir, 'old.index'), oldIndex);
  const artifact = Artifact.parse({
    name: 'bench',
    bytes: BYTES,
    sha256: 'f'.repeat(64),
    install: { kind: 'file', path: 'bench' },
    chunks: { format: 1, index: hash('sha256', index), bytes: index.length },
  }) as ChunkedArtifact;
  const reader = readerOf(fresh);
  const packOf = async (from: { reader: ArtifactReader; records: ChunkRecord[] } | null) => {
    const made = join(dir, 'pack');
    const file = openSync(made, 'w');
    makePack({ old: from, new: { reader, records }, level: 3 }, (bytes, at) =>
      writeSync(file, bytes, 0, bytes.length, at),
    );
    closeSync(file);
    const bytes = await readFile(made);
    const sha256 = hash('sha256', bytes);
    await rename(made, join(dir, 'objects', sha256));
    return { sha256, bytes: bytes.length, from: from === null ? null : hash('sha256', oldIndex), level: 3 };
  };
  const job = { dir, artifact };
  const seed = { file: old, index: join(dir, 'old.index'), bytes: BYTES };
  return [
    { what: 'fresh, from a pack', job: { ...job, pack: await packOf(null), old: null } },
    {
      what: 'from the version before',
      job: { ...job, pack: await packOf({ reader: readerOf(old), records: oldRecords }), old: seed },
    },
  ];
};

const inProcess = async (job: Job): Promise<Done> => {
  const flags = ['--max-semi-space-size=1', '--max-old-space-size=64'];
  const child = spawn(process.execPath, [...flags, import.meta.filename, JSON.stringify(job)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let out = '';
  child.stdout.on('data', (bytes: Buffer) => (out += bytes.toString()));
  await once(child, 'close');
  return JSON.parse(out) as Done;
};

const recordsOf = async (file: string): Promise<ChunkRecord[]> => {
  const parsed = parseIndex(await readFile(file), { artifactBytes: BYTES });
  if (!parsed.ok) throw new Error(parsed.why);
  return parsed.records;
};

const performFloor = async (job: Job): Promise<number> => {
  const records = await recordsOf(join(job.dir, 'objects', job.artifact.chunks.index));
  const began = performance.now();
  await mkdir(job.out);
  const [pack, sink] = [
    openSync(join(job.dir, 'objects', job.pack.sha256), 'r'),
    await open(join(job.out, 'file'), 'w+'),
  ];
  const old = job.old === null ? null : openSync(job.old.file, 'r');
  const take = (fd: number, bytes: number, at: number): Buffer => {
    const found = Buffer.allocUnsafe(bytes);
    return found.subarray(0, readSync(fd, found, 0, bytes, at));
  };
  const { records: packed } = parsePackHeader(take(pack, PACK_HEADER_BYTES, 0))!;
  const { table } = parsePackHead(take(pack, packHeadBytes(packed), 0), job.pack.bytes)!;
  let [offset, next] = [0, 0];
  for (const [number, { sha256, bytes }] of records.entries()) {
    let chunk: Buffer;
    const record = table[next];
    if (record?.chunk === number) {
      const frame = take(pack, record.frameBytes, record.offset);
      const from = record.kind === PACK_KINDS.old ? old! : sink.fd;
      const dictionary =
        record.kind === PACK_KINDS.plain ? null : take(from, record.dictionaryBytes, record.dictionaryOffset);
      chunk = openFrame(frame, dictionary, bytes);
      next += 1;
    } else chunk = take(old!, bytes, offset);
    if (hash('sha256', chunk) !== sha256) throw new Error(`chunk ${number} is wrong`);
    await sink.write(chunk, 0, bytes, offset);
    offset += bytes;
  }
  await sink.sync();
  await sink.close();
  closeSync(pack);
  return performance.now() - began;
};

const performAgent = async (job: Job): Promise<{ ms: number; bytesFetched: number }> => {
  const seeds: Seed[] = [];
  if (job.old !== null) {
    const index = await readFile(job.old.index);
    const records = await recordsOf(job.old.index);
    seeds.push({ index: hash('sha256', index), bytes: job.old.bytes, records, ...(await readPlain(job.old.file)) });
  }
  let bytesFetched = 0;
  const began = performance.now();
  const fetched = await fetchChunked({
    http: {
      get: (path, headers, signal) => request(job.url + path, { headers, signal }),
      getJson: async (_path, schema) => ({ ok: true, value: schema.parse({ pack: job.pack }) }),
    },
    artifact: job.artifact,
    dir: job.out,
    place: null,
    seeds,
    signal: new AbortController().signal,
    pause: async () => undefined,
    mayFetch: async () => true,
    onProgress: () => undefined,
    onBytes: (bytes) => {
      bytesFetched += bytes;
    },
    onTrouble: () => undefined,
    log: { info: () => undefined, warn: () => undefined, error: () => undefined, debug: () => undefined },
  });
  const ms = performance.now() - began;
  if (!fetched.ok) throw new Error(fetched.message);
  return { ms, bytesFetched };
};

/** Not `resourceUsage().maxRSS`: a process begins with that of its parent. */
const peakMB = async (): Promise<number> => {
  const status = await readFile('/proc/self/status', 'utf8');
  return Math.round(Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? Number.NaN) / 1e3);
};

if (import.meta.main) {
  const job = JSON.parse(process.argv[2]!) as Job;
  const before = process.cpuUsage();
  const done = job.kind === 'floor' ? { ms: await performFloor(job), bytesFetched: 0 } : await performAgent(job);
  const { user, system } = process.cpuUsage(before);
  process.stdout.write(JSON.stringify({ ...done, cpuMs: (user + system) / 1e3, rssMB: await peakMB() }));
}
