/**
 * Artifacts that were installed, kept so that the next version costs only what changed. Of a slot that holds the very
 * bytes (an image, or a single file) only the index is kept, or a link. Nothing here is needed: what is lost or damaged
 * is fetched again.
 */
import { link, mkdir, readdir, rename, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere, syncFolder, writeFileDurably } from '#shared/durable.ts';
import { Sha256 } from '#shared/ids.ts';
import { type ChunkRecord, parseIndex } from '#shared/transfer/chunk-index.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import type { Keep } from '../config/config.ts';
import type { Log } from '../log.ts';
import { crashPoint } from '../process/crash-point.ts';
import { reasonOf } from '../server/transfer-error.ts';
import type { ChunkedArtifact } from './fetch-chunked.ts';
import { readFrames, readPlain, writeFrames } from './kept-frames.ts';
import type { Seed } from './seeds.ts';

/** `index`: the bytes themselves are in a slot. `manifests`: whose artifact it is. */
const Record = z.object({
  format: z.literal(1),
  artifact: Sha256,
  bytes: z.number().int().min(0),
  index: Sha256,
  form: z.enum(['raw', 'zstd', 'index']),
  manifests: z.array(Sha256),
});
type Record = z.infer<typeof Record>;

/** Left free when something is compressed. */
const RESERVE_BYTES = 64 * 1024 * 1024;

export type Kept = {
  /** Those of the manifests that are asked for, in that order. To be closed. */
  seeds(manifests: readonly Sha256[]): Promise<Seed[]>;
  /** The index of an artifact whose bytes are elsewhere. */
  indexOf(artifact: ChunkedArtifact): Promise<Buffer | undefined>;
  /** `file`: where the artifact is; null when the slot is that itself. What fails is only logged. */
  keep(what: { manifest: Sha256; artifact: ChunkedArtifact; file: string | null; index: Buffer }): Promise<void>;
  /** Removes what belongs to no manifest of these, and what no one knows. */
  prune(manifests: readonly Sha256[]): Promise<void>;
};

export const openKept = ({ dir, mode, log }: { dir: string; mode: Keep; log: Log }): Kept => {
  const fileOf = (sha256: string, kind: Record['form'] | 'lengths' | 'json'): string => join(dir, `${sha256}.${kind}`);

  const records = async (): Promise<Record[]> => {
    const names = await readdir(dir).catch(() => []);
    const found: Record[] = [];
    for (const name of names.filter((one) => one.endsWith('.json'))) {
      const bytes = await readFileIfThere(join(dir, name));
      const record = parseRecord(bytes);
      if (record !== undefined && name === `${record.artifact}.json`) found.push(record);
    }
    return found;
  };
  const chunksOf = async ({ artifact, index, bytes }: Record): Promise<ChunkRecord[] | undefined> => {
    const kept = await readFileIfThere(fileOf(artifact, 'index'));
    if (kept === undefined || sha256Hex(kept) !== index) return undefined;
    const parsed = parseIndex(kept, { artifactBytes: bytes });
    return parsed.ok ? parsed.records : undefined;
  };
  const openSeed = async (record: Record): Promise<Seed | undefined> => {
    const chunks = await chunksOf(record);
    if (chunks === undefined || record.form === 'index') return undefined;
    const { artifact, form } = record;
    const lengths = form === 'zstd' ? await readFileIfThere(fileOf(artifact, 'lengths')) : undefined;
    if (form === 'zstd' && lengths === undefined) return undefined;
    const reader =
      lengths === undefined
        ? await readPlain(fileOf(artifact, 'raw'))
        : await readFrames(fileOf(artifact, 'zstd'), lengths, chunks);
    return reader === undefined ? undefined : { index: record.index, bytes: record.bytes, records: chunks, ...reader };
  };
  const remove = async (sha256: string): Promise<void> => {
    for (const kind of ['json', 'index', 'lengths', 'raw', 'zstd'] as const)
      await rm(fileOf(sha256, kind), { force: true });
  };

  const keepBytes = async (artifact: ChunkedArtifact, file: string, index: Buffer): Promise<Record['form']> => {
    const { nlink } = await stat(file);
    // A slot holds this very file: a third name for it costs nothing. Otherwise it costs what it was meant to.
    const linked = artifact.install.kind === 'file' && nlink > 1;
    if (linked || mode === 'raw') {
      await rm(fileOf(artifact.sha256, 'raw'), { force: true });
      await link(file, fileOf(artifact.sha256, 'raw'));
      return 'raw';
    }
    const { bavail, bsize } = await statfs(dir);
    if (bavail * bsize < artifact.bytes + RESERVE_BYTES) throw new Error('there is no room for it');
    const parsed = parseIndex(index, { artifactBytes: artifact.bytes });
    if (!parsed.ok) throw new Error(parsed.why);
    const frames = fileOf(artifact.sha256, 'zstd');
    const lengths = await writeFrames(file, `${frames}.tmp`, parsed.records);
    await writeFileDurably(fileOf(artifact.sha256, 'lengths'), lengths, 0o600);
    await rename(`${frames}.tmp`, frames);
    return 'zstd';
  };

  return {
    indexOf: async ({ sha256, chunks }) => {
      const kept = await readFileIfThere(fileOf(sha256, 'index')).catch(() => undefined);
      return kept !== undefined && sha256Hex(kept) === chunks.index ? kept : undefined;
    },
    seeds: async (manifests) => {
      const seeds: Seed[] = [];
      const all = await records();
      for (const manifest of manifests) {
        for (const record of all.filter((one) => one.manifests.includes(manifest))) {
          const seed = seeds.some(({ index }) => index === record.index)
            ? undefined
            : await openSeed(record).catch((error: unknown) => {
                log.warn({ event: 'kept-damaged' }, `a kept artifact cannot be used: ${reasonOf(error)}`);
                return undefined;
              });
          if (seed !== undefined) seeds.push(seed);
        }
      }
      return seeds;
    },
    keep: async ({ manifest, artifact, file, index }) => {
      if (mode === 'none' && file !== null) return;
      try {
        await mkdir(dir, { recursive: true, mode: 0o700 });
        const known = (await records()).find((record) => record.artifact === artifact.sha256);
        const record: Record = {
          format: 1,
          artifact: artifact.sha256,
          bytes: artifact.bytes,
          index: Sha256.parse(artifact.chunks.index),
          form: known?.form ?? (file === null ? 'index' : await keepBytes(artifact, file, index)),
          manifests: [...new Set([...(known?.manifests ?? []), manifest])],
        };
        if (known === undefined) await writeFileDurably(fileOf(artifact.sha256, 'index'), index, 0o600);
        await syncFolder(dir);
        await writeFileDurably(fileOf(artifact.sha256, 'json'), JSON.stringify(record), 0o600);
        crashPoint('kept.written');
      } catch (error) {
        // The update succeeded; the next one will cost more.
        await remove(artifact.sha256).catch(() => undefined);
        await rm(`${fileOf(artifact.sha256, 'zstd')}.tmp`, { force: true }).catch(() => undefined);
        log.warn({ event: 'not-kept' }, `${artifact.name} is not kept for the next update: ${reasonOf(error)}`);
      }
    },
    prune: async (manifests) => {
      const wanted = (await records()).flatMap((record) => {
        const still = record.manifests.filter((manifest) => manifests.includes(manifest));
        return still.length === 0
          ? []
          : [{ ...record, isLess: still.length < record.manifests.length, manifests: still }];
      });
      const names = new Set(wanted.map(({ artifact }) => artifact as string));
      // First of all: it may be what fills the disk.
      for (const name of await readdir(dir).catch(() => []))
        if (!names.has(name.slice(0, 64)) || name.endsWith('.tmp')) await rm(join(dir, name), { force: true });
      for (const { isLess, ...record } of wanted)
        if (isLess) await writeFileDurably(fileOf(record.artifact, 'json'), JSON.stringify(record), 0o600);
    },
  };
};

const parseRecord = (bytes: Buffer | undefined): Record | undefined => {
  try {
    return Record.safeParse(JSON.parse(bytes?.toString('utf8') ?? '')).data;
  } catch {
    return undefined;
  }
};
