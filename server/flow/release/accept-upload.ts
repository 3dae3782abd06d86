/**
 * Uploads: bundles that have arrived and are whole, but that no one has published yet. They live in memory and in
 * staged files, so a restart forgets them and CI uploads again. Nothing of a refused or broken upload remains.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import type { Objects, StagedObject } from '#server/store/objects.ts';
import { artifactOf, openContentCheck } from '#shared/bundle-content.ts';
import type { Sha256 } from '#shared/ids.ts';
import { BUNDLE_BYTES_MAX, type Manifest } from '#shared/manifest.ts';
import { accept, type Refusal, type Result, refuse } from '#shared/problems.ts';
import { readBundle } from '#shared/read-bundle.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { inPace, type Pace, TooSlow, UPLOAD_PACE } from './pace.ts';
import { stagePart } from './stage-part.ts';

export type Upload = {
  sha256: Sha256;
  bytes: number;
  manifest: Manifest;
  manifestBytes: Buffer;
  manifestSha256: Sha256;
  staged: StagedObject[];
  by: string;
  at: number;
};

export type UploadLimits = { countMax: number; bytesMax: number; keepMs: number };
const UPLOAD_LIMITS: UploadLimits = { countMax: 64, bytesMax: 64 * 1024 ** 3, keepMs: 3_600_000 };

export type Uploads = {
  /**
   * Refusals: those of `readBundle`, `digest-mismatch` with the URL, `bundle-invalid` for trees that no device would
   * unpack, `chunks-mismatch`, `insufficient-storage`, `rate-limited`, `too-slow`.
   */
  accept(input: { sha256: Sha256; body: AsyncIterable<Uint8Array>; by: string }): Promise<Result<Upload>>;
  /** Also makes it wait for `keepMs` once more, so that nothing expires while it is being published. */
  get(sha256: Sha256): Upload | undefined;
  /** After publishing: its objects are kept under their digests now. */
  forget(sha256: Sha256): void;
  /** Not needed after all. */
  discard(sha256: Sha256): Promise<void>;
  /** Drops what waited longer than `keepMs`; how many those were. */
  expire(): Promise<number>;
};

export const openUploads = (deps: {
  objects: Objects;
  /** Monotonic: for how long uploads are kept. */
  now: () => number;
  limits?: UploadLimits;
  pace?: { limit: Pace; monotonic: () => number };
}): Uploads => {
  const limits = deps.limits ?? UPLOAD_LIMITS;
  const pace = deps.pace ?? { limit: UPLOAD_PACE, monotonic: () => performance.now() };
  const pending = new Map<Sha256, Upload>();
  let arriving = 0;
  let bytesHeld = 0;

  const drop = async (upload: Pick<Upload, 'staged' | 'bytes'>): Promise<void> => {
    bytesHeld -= upload.bytes;
    for (const staged of upload.staged) await deps.objects.drop(staged);
  };

  const receive = async (input: Parameters<Uploads['accept']>[0]): Promise<Result<Upload>> => {
    const staged: StagedObject[] = [];
    const meter = meterOf(inPace(input.body, pace.limit, pace.monotonic), (bytes) => {
      bytesHeld += bytes;
      return bytesHeld <= limits.bytesMax;
    });
    let kept = false;
    let manifest: Manifest | undefined;
    const content = openContentCheck();
    try {
      const read = await readBundle(meter.body, {
        manifest: async (_, parsed) => void (manifest = parsed),
        part: async (part, body) => {
          const result = await stagePart(deps.objects, manifest!, part, body);
          if (!result.ok) throw new StageRefused(result);
          staged.push(...result.value);
          // Read once more, from the disk: what a device would refuse to unpack is not kept.
          const artifact = artifactOf(manifest!, part);
          const held = artifact && (await content.artifact(artifact, () => createReadStream(result.value[0].file)));
          if (held?.ok === false) throw new StageRefused(held);
        },
      });
      if (!read.ok) return read;
      const whole = content.end(read.value.manifest);
      if (!whole.ok) return whole;
      if (meter.digest() !== input.sha256) {
        return refuse('digest-mismatch', `the body is not the ${input.sha256} that the URL names`);
      }
      const known = pending.get(input.sha256);
      if (known !== undefined) return accept(known);
      kept = true;
      const upload: Upload = {
        sha256: input.sha256,
        bytes: meter.bytes(),
        ...read.value,
        manifestSha256: sha256Hex(read.value.manifestBytes),
        staged,
        by: input.by,
        at: deps.now(),
      };
      pending.set(input.sha256, upload);
      return accept(upload);
    } catch (error) {
      if (error instanceof StageRefused) return error.refusal;
      if (error instanceof TooSlow) return refuse('too-slow', error.message);
      if (error instanceof NoRoom) {
        return refuse(
          'insufficient-storage',
          'too many bytes wait to be published; publish or wait, then upload again',
        );
      }
      throw error;
    } finally {
      if (!kept) await drop({ staged, bytes: meter.bytes() });
    }
  };

  return {
    accept: async (input) => {
      if (pending.size + arriving >= limits.countMax && !pending.has(input.sha256)) {
        return refuse('rate-limited', `${limits.countMax} uploads wait to be published already`);
      }
      arriving += 1;
      try {
        return await receive(input);
      } finally {
        arriving -= 1;
      }
    },
    get: (sha256) => {
      const upload = pending.get(sha256);
      if (upload !== undefined) upload.at = deps.now();
      return upload;
    },
    forget: (sha256) => {
      bytesHeld -= pending.get(sha256)?.bytes ?? 0;
      pending.delete(sha256);
    },
    discard: async (sha256) => {
      const upload = pending.get(sha256);
      pending.delete(sha256);
      if (upload !== undefined) await drop(upload);
    },
    expire: async () => {
      const old = [...pending.values()].filter((upload) => upload.at + limits.keepMs <= deps.now());
      for (const upload of old) {
        pending.delete(upload.sha256);
        await drop(upload);
      }
      return old.length;
    },
  };
};

/** Carries a refusal of `stage` through `readBundle`, whose sink can only throw. */
class StageRefused extends Error {
  readonly refusal: Refusal;
  constructor(refusal: Refusal) {
    super(refusal.detail);
    this.refusal = refusal;
  }
}
class NoRoom extends Error {}

/**
 * Hashes and counts a body as it passes. Leaving early does not close the body: the refusal still has to reach the
 * sender.
 */
const meterOf = (body: AsyncIterable<Uint8Array>, mayTake: (bytes: number) => boolean) => {
  const hash = createHash('sha256');
  const source = body[Symbol.asyncIterator]();
  let bytes = 0;
  async function* pass(): AsyncGenerator<Uint8Array> {
    for (let next = await source.next(); next.done !== true; next = await source.next()) {
      bytes += next.value.length;
      if (!mayTake(next.value.length) || bytes > BUNDLE_BYTES_MAX) throw new NoRoom('no room for this upload');
      hash.update(next.value);
      yield next.value;
    }
  }
  return { body: pass(), bytes: () => bytes, digest: () => hash.digest('hex') };
};
