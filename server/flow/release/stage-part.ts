/**
 * One part of a bundle on its way to the disk. What a manifest says of an artifact's chunks is computed again here:
 * devices rely on it.
 */

import type { Objects, StagedObject } from '#server/store/objects.ts';
import type { BundlePart } from '#shared/bundle-part.ts';
import type { Artifact, Manifest } from '#shared/manifest.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { encodeIndex, openIndexer } from '#shared/transfer/chunk-index.ts';
import { describeIndex } from '#shared/transfer/describe-file.ts';

const chunksOf = (manifest: Manifest, part: BundlePart): Artifact['chunks'] =>
  part.kind === 'artifact' ? manifest.artifacts.find(({ name }) => name === part.name)?.chunks : undefined;

/**
 * Stages the part, and the chunk index of an artifact that has one: both, or nothing is left. Memory is bounded by the
 * index (35 bytes for about 70 KB of artifact). Refusals: those of `Objects.stage`, and `chunks-mismatch`.
 */
export const stagePart = async (
  objects: Pick<Objects, 'stage' | 'drop'>,
  manifest: Manifest,
  part: BundlePart,
  body: AsyncIterable<Uint8Array>,
): Promise<Result<[StagedObject, ...StagedObject[]]>> => {
  const chunks = chunksOf(manifest, part);
  const indexer = openIndexer();
  const limit = { bytesMax: part.bytes, sha256: part.sha256 };
  const staged = await objects.stage(chunks === undefined ? body : seenBy(indexer, body), limit);
  if (!staged.ok) return staged;
  if (chunks === undefined) return accept([staged.value]);
  const index = encodeIndex(indexer.end());
  const found = describeIndex(index);
  if (found.index !== chunks.index || found.bytes !== chunks.bytes) {
    await objects.drop(staged.value);
    return refuse(
      'chunks-mismatch',
      `the bytes of ${part.name} have the chunk index ${found.index} (${found.bytes} bytes), ` +
        `the manifest names ${chunks.index} (${chunks.bytes} bytes)`,
    );
  }
  const stagedIndex = await objects.stage(onePiece(index), { bytesMax: index.length, sha256: found.index });
  if (!stagedIndex.ok) await objects.drop(staged.value);
  return stagedIndex.ok ? accept([staged.value, stagedIndex.value]) : stagedIndex;
};

async function* seenBy(
  indexer: { push(bytes: Uint8Array): void },
  body: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  for await (const piece of body) {
    indexer.push(piece);
    yield piece;
  }
}

async function* onePiece(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes;
}
