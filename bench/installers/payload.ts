/** What is installed in a bench: a file, and its digest. The same bytes in every run. */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { randomOf } from '#test/simulation/random.ts';

export type Payload = {
  name: string;
  file: string;
  bytes: number;
  sha256: string;
  /** Of the slots that it goes into: a little larger, as they are. */
  slotBytes: number;
};

const PIECE_BYTES = 1_000_000;
const WORDS = 2_000;

/** `noise` does not compress, `text` reads like a log and compresses to about a quarter. */
export const makePayload = async (
  folder: string,
  { name, kind, bytes }: { name: string; kind: 'noise' | 'text'; bytes: number },
): Promise<Payload> => {
  const file = join(folder, `${kind}-${bytes}`);
  const handle = await open(file, 'w');
  const sha256 = createHash('sha256');
  const pieces = kind === 'noise' ? noise() : text();
  for (let left = bytes; left > 0; ) {
    const piece = pieces.next().value.subarray(0, left);
    left -= piece.length;
    sha256.update(piece);
    await handle.writeFile(piece);
  }
  await handle.sync();
  await handle.close();
  return { name, file, bytes, sha256: sha256.digest('hex'), slotBytes: Math.ceil(bytes / 2 ** 20 + 1) * 2 ** 20 };
};

function* noise(): Generator<Buffer, never> {
  const random = randomOf(1, 'noise');
  for (;;) {
    const piece = Buffer.alloc(PIECE_BYTES);
    for (let at = 0; at < PIECE_BYTES; at += 4) piece.writeUInt32LE(random.between(0, 0xffffffff), at);
    yield piece;
  }
}

function* text(): Generator<Buffer, never> {
  const random = randomOf(1, 'text');
  const word = (): string => random.between(1, 1_000_000_000).toString(36).replaceAll(/\d/g, '');
  const words = Array.from({ length: WORDS }, word);
  for (;;) {
    const lines: string[] = [];
    for (let bytes = 0; bytes < PIECE_BYTES; bytes += lines.at(-1)!.length) {
      const said = Array.from(
        { length: random.between(4, 24) },
        () => words[Math.min(random.between(0, WORDS - 1), random.between(0, WORDS - 1))],
      );
      lines.push(`gateway[${random.between(100, 999)}]: ${said.join(' ')}\n`);
    }
    yield Buffer.from(lines.join('')).subarray(0, PIECE_BYTES);
  }
}
