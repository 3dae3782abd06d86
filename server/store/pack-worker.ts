/**
 * The thread that makes one pack: reads artifacts and indexes, writes the file, says what it is. It holds one chunk at
 * a time.
 */
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { parseIndex } from '#shared/transfer/chunk-index.ts';
import { type ArtifactBytes, type ArtifactReader, makePack } from '#shared/transfer/make-pack.ts';
import type { PackAnswer, PackFiles, PackInput } from './make-pack-file.ts';

const openArtifact = (files: PackFiles): ArtifactBytes => {
  const file = openSync(files.artifact, 'r');
  const reader: ArtifactReader = {
    bytes: fstatSync(file).size,
    read: (offset, bytes) => {
      const buffer = Buffer.allocUnsafe(bytes);
      for (let done = 0; done < bytes; ) {
        const read = readSync(file, buffer, done, bytes - done, offset + done);
        if (read === 0) throw new Error(`${files.artifact} ends at ${offset + done}`);
        done += read;
      }
      return buffer;
    },
  };
  const parsed = parseIndex(readFileSync(files.index), { artifactBytes: reader.bytes });
  if (!parsed.ok) throw new Error(`${files.index} is no index of ${files.artifact}: ${parsed.why}`);
  return { reader, records: parsed.records };
};

const write = (input: PackInput): PackAnswer => {
  const { from, level } = input;
  const artifacts = { old: from === null ? null : openArtifact(from), new: openArtifact(input.to) };
  const out = openSync(input.out, 'wx+', 0o600);
  const bytes = makePack({ ...artifacts, level }, (piece, at) => {
    // A write may be short when the disk fills up; the next one then says so.
    for (let done = 0; done < piece.length; ) done += writeSync(out, piece, done, piece.length - done, at + done);
  });
  // Its table, which comes first, is known last: so all of it is read once more.
  const hash = createHash('sha256');
  const piece = Buffer.allocUnsafe(READ_BYTES);
  for (let read = 0, at = 0; (read = readSync(out, piece, 0, READ_BYTES, at)) > 0; at += read)
    hash.update(piece.subarray(0, read));
  closeSync(out);
  return { ok: true, sha256: hash.digest('hex'), bytes };
};
const READ_BYTES = 256 * 1024;

const answer = (): PackAnswer => {
  try {
    const input: PackInput = workerData;
    return write(input);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : undefined;
    return { ok: false, message: error instanceof Error ? error.message : String(error), code };
  }
};

try {
  // On Linux the priority is that of this thread alone: whatever else the machine has to do comes first.
  setPriority(10);
} catch {
  // Then it competes with the rest.
}
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
parentPort?.postMessage(answer());
