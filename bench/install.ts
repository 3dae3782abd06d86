/**
 * How fast the agent installs: fetching over HTTP, writing the slot and reading it back, against a floor measured in
 * the same run: reading, hashing and writing the same bytes once, with an fsync at the end.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, open, rename, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDirectorySlots } from '#agent/slots/directories.ts';
import { fetchArtifact } from '#agent/transfer/fetch.ts';
import { Manifest } from '#shared/manifest.ts';
import { writeTree } from '#shared/tree.ts';
import { type Figure, figure } from './figure.ts';

export const name = 'install';

const PIECE_BYTES = 1024 * 1024;
const PIECES = 256;
const ROUNDS = 3;

/** Its own process, as on a real network: the agent's thread is not shared with the server's. */
const SERVER = `
  import { createReadStream, statSync } from 'node:fs';
  import { createServer } from 'node:http';
  createServer((request, response) => {
    const file = process.argv[1] + request.url.replace('/o/', '/');
    response.setHeader('content-length', statSync(file).size);
    createReadStream(file, { highWaterMark: 1048576 }).pipe(response);
  }).listen(0, '127.0.0.1', function () { console.log(this.address().port); });`;

/** Milliseconds. */
type Phases = { fetch: number; write: number; readBack: number };
type Case = { kind: 'file' | 'tree'; manifest: Manifest; sha256: string };

/** Medians of the rounds. */
export const run = async (): Promise<Figure[]> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-bench-'));
  let server: ChildProcess | undefined;
  try {
    await mkdir(join(dir, 'objects'));
    const cases = [await makeFile(dir), await makeTree(dir)];
    server = spawn(process.execPath, ['--input-type=module', '-e', SERVER, join(dir, 'objects')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [port] = await once(server.stdout!, 'data');
    const url = `http://127.0.0.1:${String(port).trim()}`;
    const speeds: Record<string, number[]> = { floor: [], file: [], tree: [] };
    const phases: Record<Case['kind'], Phases[]> = { file: [], tree: [] };
    // Nothing is deleted between the rounds: after many deletions some file systems create files slowly
    // (docs/decisions/0005).
    for (let round = 0; round < ROUNDS; round += 1) {
      speeds['floor']!.push(await measureFloor(join(dir, 'objects', cases[0]!.sha256), join(dir, `floor-${round}`)));
      for (const one of cases) {
        const { speed, ...times } = await measureInstall(url, join(dir, `agent-${one.kind}-${round}`), one);
        speeds[one.kind]!.push(speed);
        phases[one.kind].push(times);
      }
    }
    const floor = median(speeds['floor']!);
    const figures = (['file', 'tree'] as const).flatMap((kind) => {
      const speed = median(speeds[kind]!);
      const { fetch, write, readBack } = mediansOf(phases[kind]);
      return [
        figure(`a ${kind}`, speed, 'MB/s', speed / floor),
        figure(`a ${kind}: fetch`, fetch, 'ms'),
        figure(`a ${kind}: write`, write, 'ms'),
        figure(`a ${kind}: read back`, readBack, 'ms'),
      ];
    });
    return [
      figure(`read, SHA-256, write, fsync of ${Math.round((PIECES * PIECE_BYTES) / 1e6)} MB`, floor, 'MB/s'),
      ...figures,
      figure('resident memory', process.resourceUsage().maxRSS / 1e3, 'MB'),
    ];
  } finally {
    server?.kill('SIGKILL');
    await rm(dir, { recursive: true, force: true });
  }
};

const median = (values: number[]): number => values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!;

const mediansOf = (rounds: Phases[]): Phases => {
  const of = (phase: keyof Phases): number => Math.round(median(rounds.map((round) => round[phase])));
  return { fetch: of('fetch'), write: of('write'), readBack: of('readBack') };
};

const megabytesPerSecond = async (bytes: number, act: () => Promise<void>): Promise<number> => {
  const began = performance.now();
  await act();
  return bytes / 1e3 / (performance.now() - began);
};

const writePieces = async (file: string, pieces: number): Promise<void> => {
  const handle = await open(file, 'w');
  const piece = Buffer.alloc(PIECE_BYTES);
  for (let index = 0; index < pieces; index += 1) await handle.writeFile(randomFillSync(piece));
  await handle.close();
};

const makeFile = async (dir: string): Promise<Case> => {
  await writePieces(join(dir, 'file'), PIECES);
  return makeCase(dir, 'file', { kind: 'file', path: 'image.bin' });
};

/** 2,048 small files and 60 large ones: as many bytes as the file. */
const makeTree = async (dir: string): Promise<Case> => {
  const source = join(dir, 'source');
  for (let folder = 0; folder < 64; folder += 1) {
    await mkdir(join(source, `folder-${folder}`), { recursive: true });
    if (folder < 60) await writePieces(join(source, `folder-${folder}`, 'large'), 4);
    for (let file = 0; file < 32; file += 1) {
      const handle = await open(join(source, `folder-${folder}`, `file-${file}`), 'w');
      await handle.writeFile(Buffer.alloc((16 * PIECE_BYTES) / 2048, file));
      await handle.close();
    }
  }
  const written = await writeTree(source, 'none', join(dir, 'tree'));
  if (!written.ok) throw new Error(written.detail);
  return makeCase(dir, 'tree', { kind: 'tree', compression: 'none' });
};

const makeCase = async (dir: string, kind: Case['kind'], install: object): Promise<Case> => {
  const handle = await open(join(dir, kind), 'r+');
  const hash = createHash('sha256');
  for await (const piece of handle.createReadStream({ autoClose: false })) hash.update(piece);
  const sha256 = hash.digest('hex');
  // What is still to be written of it must not slow the first measurement.
  await handle.sync();
  const { size } = await handle.stat();
  await handle.close();
  await rename(join(dir, kind), join(dir, 'objects', sha256));
  const manifest = Manifest.parse({
    format: 1,
    product: 'bench',
    version: '1.0.0',
    compatible: 'bench',
    securityCounter: 0,
    artifacts: [{ name: kind, bytes: size, sha256, install }],
  });
  return { kind, manifest, sha256 };
};

const measureFloor = async (from: string, to: string): Promise<number> => {
  const { size } = await stat(from);
  const speed = await megabytesPerSecond(size, async () => {
    const [source, sink] = [await open(from, 'r'), await open(to, 'w')];
    const hash = createHash('sha256');
    const piece = Buffer.alloc(PIECE_BYTES);
    for (;;) {
      const { bytesRead } = await source.read(piece);
      if (bytesRead === 0) break;
      hash.update(piece.subarray(0, bytesRead));
      await sink.write(piece, 0, bytesRead);
    }
    hash.digest();
    await sink.sync();
    await source.close();
    await sink.close();
  });
  return speed;
};

const measureInstall = async (
  url: string,
  dir: string,
  { kind, manifest, sha256 }: Case,
): Promise<Phases & { speed: number }> => {
  const [artifact] = manifest.artifacts;
  const slots = await openDirectorySlots({ dir: join(dir, 'pair'), supervisor: NO_SUPERVISOR });
  const insist = (result: { ok: boolean; message?: string }): void => {
    if (!result.ok) throw new Error(`${kind}: ${result.message}`);
  };
  const began = performance.now();
  insist(await slots.prepare('a'));
  const fetched = await fetchArtifact({
    get: (path, headers, signal) => fetch(url + path, { headers, signal }),
    artifact: artifact!,
    dir: join(dir, 'downloads'),
    signal: new AbortController().signal,
  });
  if (!fetched.ok) throw new Error(fetched.message);
  const fetchedAt = performance.now();
  insist(await slots.write('a', manifest, sha256, [{ name: kind, file: fetched.file }]));
  const writtenAt = performance.now();
  insist(await slots.verify('a'));
  const ended = performance.now();
  return {
    speed: artifact!.bytes / 1e3 / (ended - began),
    fetch: fetchedAt - began,
    write: writtenAt - fetchedAt,
    readBack: ended - writtenAt,
  };
};

/** Nothing is booted here. */
const NO_SUPERVISOR = {
  start: async () => ({ ok: true }) as const,
  running: () => null,
  keepRunning: () => undefined,
  listen: () => () => undefined,
  lastOutput: async () => '',
  stop: async () => undefined,
};
