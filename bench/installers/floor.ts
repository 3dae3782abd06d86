/**
 * What nothing can do without: read, decompress, SHA-256, write, and an fsync at the end, in one process with nothing
 * else in it.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, fsyncSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import type { Installer } from './measure.ts';

/** As much at a time as agents have in memory. */
const FRAME_BYTES = 2 ** 20;
/** As packs are at first. */
const LEVEL = 9;

export const floor: Installer = {
  name: 'floor',
  lacks: undefined,
  prepare: async (payload, folder, slot) => {
    const frames = join(folder, 'frames');
    compress(payload.file, frames);
    return async () => {
      const child = spawnSync(process.execPath, [import.meta.filename, frames, slot], { encoding: 'utf8' });
      if (child.status !== 0) throw new Error(`the floor fell: ${child.stderr}`);
      const [ms, kilobytes] = child.stdout.split(' ').map(Number);
      return { ms: ms!, rssMB: kilobytes! / 1e3 };
    };
  },
};

/** Each frame after its length. */
const compress = (from: string, to: string): void => {
  const [source, sink] = [openSync(from, 'r'), openSync(to, 'w')];
  const piece = Buffer.alloc(FRAME_BYTES);
  for (let bytes = readSync(source, piece); bytes > 0; bytes = readSync(source, piece)) {
    const frame = zstdCompressSync(piece.subarray(0, bytes), {
      params: { [constants.ZSTD_c_compressionLevel]: LEVEL },
    });
    const length = Buffer.alloc(4);
    length.writeUInt32BE(frame.length);
    writeFileSync(sink, length);
    writeFileSync(sink, frame);
  }
  closeSync(source);
  closeSync(sink);
};

const install = (from: string, to: string): number => {
  const began = performance.now();
  const [source, sink] = [openSync(from, 'r'), openSync(to, 'r+')];
  const hash = createHash('sha256');
  const length = Buffer.alloc(4);
  const frame = Buffer.alloc(FRAME_BYTES + FRAME_BYTES / 256 + 64);
  while (readSync(source, length) === 4) {
    const bytes = readSync(source, frame, 0, length.readUInt32BE(), null);
    const piece = zstdDecompressSync(frame.subarray(0, bytes));
    hash.update(piece);
    writeSync(sink, piece);
  }
  hash.digest();
  fsyncSync(sink);
  closeSync(source);
  closeSync(sink);
  return performance.now() - began;
};

/** The largest that the process was: of its own, not of the one that it was forked from. */
const ownMemory = (): string => /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]!;

if (import.meta.main) {
  const [from, to] = process.argv.slice(2);
  const ms = install(from!, to!);
  process.stdout.write(`${ms} ${Number(ownMemory()) * 1.024}`);
}
