/**
 * One step in a process of its own, so that its memory is its own: `make <old|-> <new> <level> <pack>`, `apply <old|->
 * <index of old> <index of new> <pack> <out>`, `chunks <old> <new> <pack>`, `partial <old> <new> <pack>`, `index
 * <file>`. Prints one line of JSON.
 */
import { createHash, hash } from 'node:crypto';
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { constants, zstdCompressSync } from 'node:zlib';
import { type ChunkRecord, chunksLacking, encodeIndex, openIndexer, parseIndex } from '#shared/transfer/chunk-index.ts';
import { type ArtifactReader, makePack } from '#shared/transfer/make-pack.ts';
import {
  encodePackHeader,
  encodePackRecord,
  openFrame,
  PACK_HEADER_BYTES,
  PACK_KINDS,
  packHeadBytes,
  packRecordFits,
  parsePackHead,
  parsePackHeader,
  WINDOW_LOG,
} from '#shared/transfer/pack.ts';
import { fetchPartly } from './partial.ts';

const readerOf = (path: string): ArtifactReader => {
  const file = openSync(path, 'r');
  return {
    bytes: fstatSync(file).size,
    read: (offset, bytes) => {
      const buffer = Buffer.allocUnsafe(bytes);
      for (let done = 0; done < bytes; ) {
        const read = readSync(file, buffer, done, bytes - done, offset + done);
        if (read === 0) throw new Error(`${path} is short`);
        done += read;
      }
      return buffer;
    },
  };
};
const PIECE = 256 * 1024;
const recordsOf = (reader: ArtifactReader): ChunkRecord[] => {
  const indexer = openIndexer();
  for (let at = 0; at < reader.bytes; at += PIECE) indexer.push(reader.read(at, Math.min(PIECE, reader.bytes - at)));
  return indexer.end();
};
const open = (path: string) => {
  const reader = readerOf(path);
  return { reader, records: recordsOf(reader) };
};

const make = (oldPath: string, newPath: string, level: number, out: string) => {
  const old = oldPath === '-' ? null : open(oldPath);
  const fresh = open(newPath);
  if (old !== null) writeFileSync(`${out}.old-index`, encodeIndex(old.records));
  const index = encodeIndex(fresh.records);
  writeFileSync(`${out}.index`, index);
  const file = openSync(out, 'w');
  const bytes = makePack({ old, new: fresh, level }, (piece, at) => writeSync(file, piece, 0, piece.length, at));
  closeSync(file);
  return { bytes, indexBytes: index.length };
};

const FLUSH_BYTES = 8 * 1024 ** 2;
const apply = (oldPath: string, oldIndex: string, newIndex: string, packPath: string, out: string) => {
  const old = oldPath === '-' ? null : readerOf(oldPath);
  const have = new Map<string, number>();
  let at = 0;
  for (const { sha256, bytes } of old === null ? [] : parsed(oldIndex)) {
    have.set(sha256, at);
    at += bytes;
  }
  const pack = readerOf(packPath);
  const target = openSync(out, 'w+');
  const written = (offset: number, bytes: number): Buffer => {
    const buffer = Buffer.allocUnsafe(bytes);
    readSync(target, buffer, 0, bytes, offset);
    return buffer;
  };
  const held = parsePackHeader(pack.read(0, PACK_HEADER_BYTES))?.records ?? 0;
  const table = parsePackHead(pack.read(0, packHeadBytes(held)), pack.bytes)?.table ?? [];
  let [next, offset, dirty] = [0, 0, 0];
  for (const [number, { sha256, bytes }] of parsed(newIndex).entries()) {
    const source = have.get(sha256);
    let chunk: Buffer;
    if (source !== undefined) chunk = source < 0 ? written(-source - 1, bytes) : old!.read(source, bytes);
    else {
      const record = table[next];
      const place = { chunkOffset: offset, chunkBytes: bytes, oldBytes: old?.bytes ?? null };
      if (record?.chunk !== number || !packRecordFits(record, place)) throw new Error('bad pack');
      const { kind, dictionaryOffset, dictionaryBytes, frameBytes } = record;
      const range = kind === PACK_KINDS.old ? old!.read.bind(old) : written;
      const dictionary = kind === PACK_KINDS.plain ? null : range(dictionaryOffset, dictionaryBytes);
      chunk = openFrame(pack.read(record.offset, frameBytes), dictionary, bytes);
      next += 1;
      have.set(sha256, -offset - 1);
    }
    if (hash('sha256', chunk) !== sha256) throw new Error(`chunk ${number} is wrong`);
    writeSync(target, chunk, 0, bytes, offset);
    offset += bytes;
    dirty += bytes;
    if (dirty < FLUSH_BYTES) continue;
    fdatasyncSync(target);
    dirty = 0;
  }
  fsyncSync(target);
  return { bytes: offset };
};
const parsed = (path: string): ChunkRecord[] => {
  const bytes = readFileSync(path);
  let artifactBytes = 0;
  for (let at = 16; at < bytes.length; at += 35) artifactBytes += bytes.readUIntLE(at + 32, 3);
  const index = parseIndex(bytes, { artifactBytes });
  if (!index.ok) throw new Error(index.why);
  return index.records;
};

/**
 * What devices fetch that no pack fits: chunk by chunk, each compressed on its way. Kept as a pack, so that it can be
 * applied.
 */
const chunks = (oldPath: string, newPath: string, out: string) => {
  const [old, fresh] = [open(oldPath), open(newPath)];
  writeFileSync(`${out}.old-index`, encodeIndex(old.records));
  const index = encodeIndex(fresh.records);
  writeFileSync(`${out}.index`, index);
  const lacking = chunksLacking(fresh.records, old.records);
  const digest = (records: ChunkRecord[]): string => hash('sha256', encodeIndex(records));
  const file = openSync(out, 'w');
  const head = [encodePackHeader({ to: digest(fresh.records), from: digest(old.records), records: lacking.length })];
  const headBytes = packHeadBytes(lacking.length);
  let bytes = 0;
  for (const { chunk, offset, record } of lacking) {
    const params = { [constants.ZSTD_c_windowLog]: WINDOW_LOG };
    const frame = zstdCompressSync(fresh.reader.read(offset, record.bytes), { params });
    head.push(encodePackRecord({ kind: 0, chunk, dictionaryOffset: 0, dictionaryBytes: 0, frameBytes: frame.length }));
    writeSync(file, frame, 0, frame.length, headBytes + bytes);
    bytes += frame.length;
  }
  writeSync(file, Buffer.concat(head), 0, headBytes, 0);
  closeSync(file);
  return { bytes, indexBytes: index.length };
};

/** How fast the index is made, beside the floor: the same bytes read and hashed. In GB of a second of the processor. */
const index = (path: string) => {
  const reader = readerOf(path);
  const speed = (act: () => void): number => {
    const before = process.cpuUsage();
    act();
    const { user, system } = process.cpuUsage(before);
    return Math.round(reader.bytes / 10 / (user + system)) / 100;
  };
  const whole = createHash('sha256');
  const hashing = speed(() => {
    for (let at = 0; at < reader.bytes; at += PIECE) whole.update(reader.read(at, Math.min(PIECE, reader.bytes - at)));
  });
  return { bytes: reader.bytes, hashing, indexing: speed(() => void recordsOf(reader)) };
};

const partial = async (oldPath: string, newPath: string, pack: string) => {
  const fresh = open(newPath);
  const fetched = await fetchPartly(recordsOf(readerOf(oldPath)), fresh, readerOf(pack), `${pack}.table`);
  return { ...fetched, indexBytes: encodeIndex(fresh.records).length };
};

const [step = '', ...args] = process.argv.slice(2);
const since = process.cpuUsage();
const began = performance.now();
const [a = '', b = '', c = '', d = '', e = ''] = args;
const steps: Record<string, () => object | Promise<object>> = {
  make: () => make(a, b, Number(c), d),
  apply: () => apply(a, b, c, d, e),
  chunks: () => chunks(a, b, c),
  partial: () => partial(a, b, c),
  index: () => index(a),
};
const result = await steps[step]!();
const { user, system } = process.cpuUsage(since);
const [seconds, wallSeconds] = [(user + system) / 1e6, (performance.now() - began) / 1000];
console.log(JSON.stringify({ ...result, seconds, wallSeconds, rssMB: process.resourceUsage().maxRSS / 1024 }));
