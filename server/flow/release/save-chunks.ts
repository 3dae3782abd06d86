/**
 * Makes every chunk of an artifact findable by its digest, so that `GET /o/<chunk>` is served out of the artifact's own
 * file.
 */
import { buffer } from 'node:stream/consumers';
import type { Objects } from '#server/store/objects.ts';
import type { Store } from '#server/store/store.ts';
import type { Artifact } from '#shared/manifest.ts';
import { parseIndex } from '#shared/transfer/chunk-index.ts';

const PAGE = 5_000;

/**
 * After the index is kept, before the bundle is recorded: a device that knows of the bundle finds its chunks. Repeating
 * it is harmless.
 */
export const saveChunks = async (
  deps: { store: Pick<Store, 'saveChunks'>; objects: Pick<Objects, 'open'>; now: () => number },
  artifact: Artifact,
): Promise<void> => {
  if (artifact.chunks === undefined) return;
  const opened = await deps.objects.open(artifact.chunks.index);
  if (opened === undefined) throw new Error(`the chunk index ${artifact.chunks.index} is not there`);
  const parsed = parseIndex(await buffer(opened.stream), { artifactBytes: artifact.bytes });
  if (!parsed.ok) throw new Error(`the chunk index ${artifact.chunks.index} is ${parsed.why}`);
  let offset = 0;
  for (let at = 0; at < parsed.records.length; at += PAGE) {
    const page = parsed.records.slice(at, at + PAGE).map(({ sha256, bytes }) => {
      const chunk = { sha256, offset, bytes };
      offset += bytes;
      return chunk;
    });
    await deps.store.saveChunks(artifact.sha256, page, deps.now());
  }
};
