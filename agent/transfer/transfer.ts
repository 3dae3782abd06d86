/**
 * Everything between a manifest and its artifacts on this device: room, seeds, the network, and what is kept for the
 * next time.
 */
import { dirname, join } from 'node:path';
import { readFileIfThere, syncFolder } from '#shared/durable.ts';
import type { Sha256 } from '#shared/ids.ts';
import type { Artifact, Manifest } from '#shared/manifest.ts';
import { parseIndex } from '#shared/transfer/chunk-index.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import type { AgentConfig } from '../config/config.ts';
import type { FreeBytes } from '../disk/room.ts';
import type { FetchedArtifact, SlotName, SlotResult, Slots } from '../domain/slots.ts';
import type { Log } from '../log.ts';
import { storageRefusal } from '../process/system-error.ts';
import type { Http } from '../server/http.ts';
import { reasonOf } from '../server/transfer-error.ts';
import { fetchAll } from './fetch-all.ts';
import { type ChunkedArtifact, isChunked } from './fetch-chunked.ts';
import { openKept } from './kept.ts';
import { readPlain } from './kept-frames.ts';
import type { Progress } from './last-transfer.ts';
import { openMetered } from './metered.ts';
import type { Seed } from './seeds.ts';
import { lacksRoom } from './space.ts';

export type TransferOptions = {
  config: Pick<AgentConfig, 'keepArtifacts' | 'metered'>;
  folders: { data: string; downloads: string };
  slots: Pick<Slots, 'inspect' | 'place' | 'seeds'>;
  http: Pick<Http, 'get' | 'getJson' | 'distrustCache'>;
  pause: (attempt: number, signal: AbortSignal) => Promise<unknown>;
  now: () => number;
  log: Log;
  onProgress: (progress: Progress) => void;
  /** Default: what the file system says. */
  freeBytes?: FreeBytes;
};

/** What is fetched for: the slot, for how long already, and until when it is worth it. */
export type FetchRequest = { slot: SlotName; manifest: Manifest; elapsedMs: number; expires: number };

export const openTransfer = (options: TransferOptions) => {
  const { folders, slots, log, config } = options;
  const kept = openKept({ dir: join(folders.data, 'artifacts'), mode: config.keepArtifacts, log });

  /** The manifests of what the slots hold: the active one's first. */
  const installed = async (): Promise<Sha256[]> => {
    const inspected = await slots.inspect();
    if (!inspected.ok) return [];
    const { active, slots: pair } = inspected.view;
    const contents = active === 'b' ? [pair.b, pair.a] : [pair.a, pair.b];
    return contents.flatMap((content) => (content.state === 'bootable' ? [content.running.manifest] : []));
  };
  /** Of slots that are the artifact themselves. */
  const slotSeeds = async (): Promise<Seed[]> => {
    const seeds: Seed[] = [];
    for (const { file, artifact } of (await slots.seeds?.()) ?? []) {
      const index = isChunked(artifact) ? await kept.indexOf(artifact) : undefined;
      const parsed = index === undefined ? undefined : parseIndex(index, { artifactBytes: artifact.bytes });
      if (!isChunked(artifact) || parsed?.ok !== true) continue;
      seeds.push({
        index: artifact.chunks.index,
        bytes: artifact.bytes,
        records: parsed.records,
        ...(await readPlain(file)),
      });
    }
    return seeds;
  };
  const openSeeds = async (): Promise<Seed[]> => {
    try {
      return [...(await slotSeeds()), ...(await kept.seeds(await installed()))];
    } catch (error) {
      log.warn({ event: 'no-seeds' }, `nothing that is here can be used: ${reasonOf(error)}`);
      return [];
    }
  };
  /** Room for all of it; what is kept for saving the network gives way, that of the active slot last. */
  const makeRoom = async (artifacts: readonly Artifact[]): Promise<SlotResult> => {
    try {
      const [active] = await installed();
      for (const still of [undefined, active === undefined ? [] : [active], []]) {
        if (still !== undefined) await kept.prune(still);
        if ((await lacksRoom(folders.downloads, artifacts, options.freeBytes)) === undefined) return { ok: true };
      }
      const why = await lacksRoom(folders.downloads, artifacts, options.freeBytes);
      return why === undefined ? { ok: true } : { ok: false, code: 'NO_SPACE', message: why };
    } catch (error) {
      return storageRefusal(error, 'there is no telling whether it fits');
    }
  };
  /** Where the slot wants an artifact's bytes; null: in the downloads folder. */
  const placeOf = async ({ slot, manifest }: Pick<FetchRequest, 'slot' | 'manifest'>, artifact: Artifact) =>
    isChunked(artifact) ? ((await slots.place?.(slot, manifest, artifact)) ?? null) : null;

  const fetch = async (request: FetchRequest, signal: AbortSignal): Promise<SlotResult> => {
    const { manifest } = request;
    const places = new Map<string, string>();
    for (const artifact of manifest.artifacts) {
      const place = await placeOf(request, artifact);
      if (place?.ok === false) return place;
      if (place !== null) places.set(artifact.name, place.file);
    }
    const room = await makeRoom(manifest.artifacts.filter(({ name }) => !places.has(name)));
    if (!room.ok) return room;
    const mayFetch = openMetered({ ...options, ...request, config: config.metered, folder: folders.data });
    const seeds = await openSeeds();
    try {
      const fetched = await fetchAll({
        ...options,
        artifacts: manifest.artifacts,
        dir: folders.downloads,
        places,
        seeds,
        signal,
        mayFetch: (fetched, bytes) => mayFetch(fetched, bytes, signal),
      });
      return fetched.ok ? await settle(folders.downloads) : fetched;
    } finally {
      for (const seed of seeds) await seed.close();
    }
  };

  /** What `fetch` has fetched, for the slot to write. After a restart too. */
  const fetched = async (request: Pick<FetchRequest, 'slot' | 'manifest'>): Promise<FetchedArtifact[]> => {
    const files: FetchedArtifact[] = [];
    for (const artifact of request.manifest.artifacts) {
      const place = await placeOf(request, artifact);
      // A slot that refuses holds it already, and says so when it is to be written.
      const file = place?.ok === true ? place.file : join(folders.downloads, artifact.sha256);
      files.push({ name: artifact.name, file });
    }
    return files;
  };

  /**
   * Keeps of a version that was just committed what makes the next one cheap, and forgets what no slot needs any more.
   */
  const keep = async (manifestSha256: Sha256, manifest: Manifest | undefined): Promise<void> => {
    for (const artifact of manifest?.artifacts ?? []) {
      if (!isChunked(artifact)) continue;
      const index = await readDownloadedIndex(folders.downloads, artifact);
      const file = artifact.install.kind === 'image' ? null : join(folders.downloads, artifact.sha256);
      if (index !== undefined) await kept.keep({ manifest: manifestSha256, artifact, file, index });
    }
    await kept.prune(await installed());
  };

  return { fetch, fetched, keep };
};
export type Transfer = ReturnType<typeof openTransfer>;

/**
 * What is there may never have been flushed before a crash, nor the folder itself: once it is recorded as fetched no
 * one fetches it again.
 */
const settle = async (dir: string): Promise<SlotResult> => {
  try {
    await syncFolder(dir);
    await syncFolder(dirname(dir));
    return { ok: true };
  } catch (error) {
    return storageRefusal(error, 'what was fetched cannot be kept');
  }
};

const readDownloadedIndex = async (dir: string, { chunks }: ChunkedArtifact): Promise<Buffer | undefined> => {
  const index = await readFileIfThere(join(dir, `${chunks.index}.index`));
  return index !== undefined && sha256Hex(index) === chunks.index ? index : undefined;
};
