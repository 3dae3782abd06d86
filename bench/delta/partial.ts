/**
 * What an agent with the old artifact fetches of the pack from nothing, while that between the two is not made yet: its
 * own code, on files.
 */
import { rm } from 'node:fs/promises';
import type { ByteStream } from '#agent/server/stream.ts';
import { openPackSource } from '#agent/transfer/pack-source.ts';
import { type ChunkRecord, chunksLacking, encodeIndex } from '#shared/transfer/chunk-index.ts';
import type { ArtifactBytes, ArtifactReader } from '#shared/transfer/make-pack.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';

export const fetchPartly = async (
  old: readonly ChunkRecord[],
  fresh: ArtifactBytes,
  pack: ArtifactReader,
  tableFile: string,
) => {
  const [all, lacking] = [chunksLacking(fresh.records, []), chunksLacking(fresh.records, old)];
  const numbers = new Set(lacking.map(({ chunk }) => chunk));
  let [bytes, requests] = [0, 0];
  const open = async (start: number): Promise<ByteStream> => {
    requests += 1;
    let at = start;
    const take = async (length: number): Promise<Buffer> => {
      at += length;
      bytes += length;
      return pack.read(at - length, length);
    };
    const skip = async (length: number): Promise<void> => void (await take(length));
    return { position: () => at, take, skip, frame: async () => undefined, close: () => undefined };
  };
  const source = openPackSource({
    bytes: pack.bytes,
    holds: all.length,
    all: false,
    to: sha256Hex(encodeIndex(fresh.records)),
    records: fresh.records,
    seed: null,
    tableFile,
    lacks: (number) => numbers.has(number),
    open,
    recent: async (offset, length) => fresh.reader.read(offset, length),
  });
  for (const { chunk, offset } of lacking) {
    if ((await source.chunk(chunk, offset)) === undefined) throw new Error(`the pack does not give chunk ${chunk}`);
  }
  await rm(tableFile);
  return { bytes, requests };
};
