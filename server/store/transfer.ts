/**
 * What the server remembers for transfers: where in which artifact a chunk is, and which packs there are. All of it is
 * derived from published bundles.
 */
import type { Id, Sha256 } from '#shared/ids.ts';

export type ChunkPlace = { artifact: Sha256; offset: number; bytes: number };
/**
 * A pack leads from the artifact with the index `from` (null: from nothing) to that with `to`. At most one for each
 * pair.
 */
export type PackRecord = {
  to: Sha256;
  from: Sha256 | null;
  level: number;
  /** Of the pack itself, which is an object. */
  sha256: Sha256;
  bytes: number;
  madeAt: number;
  /** When a device was last told of it. */
  usedAt: number;
};

export type TransferStore = {
  /** Chunks of an artifact that is an object; saving them again is fine. At most 10,000 at once. */
  saveChunks(artifact: Sha256, chunks: { sha256: string; offset: number; bytes: number }[], at: number): Promise<void>;
  /** In whichever artifact it is. */
  findChunk(sha256: Sha256): Promise<ChunkPlace | undefined>;
  /** Forgets the chunks of artifacts that no bundle has, unless saved after `before`; of how many artifacts. */
  sweepChunks(before: number): Promise<number>;
  /** Which manifests the accepted devices of this kind run, most devices first. */
  listRunning(product: Id, compatible: Id, limit: number): Promise<{ manifest: Sha256; devices: number }[]>;
  /** In place of the pack of the same pair. */
  savePack(pack: PackRecord): Promise<void>;
  /** All that lead to one of these indexes. */
  listPacks(to: Sha256[]): Promise<PackRecord[]>;
  notePackUsed(pack: Pick<PackRecord, 'to' | 'from'>, at: number): Promise<void>;
  /**
   * Forgets packs to what no bundle has, then those used longest ago until the rest has at most `bytesMax` bytes
   * together. Returns the digests of objects that nothing refers to any more.
   */
  evictPacks(bytesMax: number): Promise<Sha256[]>;
};
