import { mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { dirname, join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { chunksLacking } from '#shared/transfer/chunk-index.ts';
import { packHeadBytes } from '#shared/transfer/pack.ts';
import { noise, recordsOf } from '#test/shared/transfer/bytes.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { edited, openRig, prose, seedOf, sha256, writeSlot } from './rig.ts';

const V1 = prose('v1', 1_500_000);
const V2 = edited(V1, 5);

test('a fresh artifact comes in one pack, compressed, and is right', async () => {
  const rig = await openRig(V1);
  const result = await rig.fetch();
  expect(await rig.outcome(result)).toBe('whole');
  expect(result).toMatchObject({ ok: true, origins: { network: V1.length, seed: 0, there: 0 } });
  expect(rig.asked.map(({ path }) => path.slice(0, 16))).toEqual([
    `/o/${rig.artifact.chunks!.index}`.slice(0, 16),
    '/device/v1/pack?',
    `/o/${rig.pack.sha256}`.slice(0, 16),
  ]);
  expect(rig.counts.bytes).toBeLessThan(V1.length / 1.5);
  const left = await readdir(join(rig.dir, 'downloads'));
  expect(left).not.toContain(`${rig.artifact.sha256}.part`);
});

test('what this device holds of it is not fetched: a new version costs what changed', async () => {
  const rig = await openRig(V2, { old: V1 });
  const result = await rig.fetch();
  expect(await rig.outcome(result)).toBe('whole');
  expect(rig.counts.bytes).toBeLessThan(V2.length / 25);
  expect(result).toMatchObject({ ok: true, origins: { there: 0 } });
});

test('chunks that repeat within an artifact are fetched once', async () => {
  const once = noise('once', 700_000);
  const rig = await openRig(Buffer.concat([once, once, once]), { pack: false });
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  expect(rig.counts.bytes).toBeLessThan(once.length * 1.3);
});

/** Bytes that no server can send fewer of: the chunks that `old` has not, each compressed by itself. */
const lackingOf = (fresh: Buffer, old: Buffer): { count: number; compressed: number } => {
  const lacking = chunksLacking(recordsOf(fresh), recordsOf(old));
  const frames = lacking.map(({ offset, record }) => zstdCompressSync(fresh.subarray(offset, offset + record.bytes)));
  return { count: lacking.length, compressed: frames.reduce((sum, { length }) => sum + length, 0) };
};

test('without a pack what compresses comes chunk by chunk, what does not as a range of the artifact', async () => {
  const rig = await openRig(V2, { old: V1, pack: false });
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  const { count, compressed } = lackingOf(V2, V1);
  expect(rig.counts.bytes).toBe(rig.index.length + compressed);
  expect(rig.asked.length).toBe(2 + count);
  const fresh = await openRig(noise('fresh', 1_500_000), { pack: false });
  expect(await fresh.outcome(await fresh.fetch())).toBe('whole');
  // Index, pack, one chunk to see, and the rest.
  expect(fresh.asked.length).toBe(4);
});

test.runIf(ALL_SWEEPS)(
  'ranges of what does not compress grow, and a chunk alone between two of them says whether that is still so',
  async () => {
    const rig = await openRig(noise('long', 30_000_000), { pack: false });
    expect(await rig.outcome(await rig.fetch())).toBe('whole');
    const wanted = rig.asked.slice(2);
    expect(wanted.map(({ range }) => range !== undefined)).toEqual([false, true, false, true, false, true]);
    const lengths = wanted.flatMap(({ range }) => /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? []);
    const [first, second] = [0, 3].map((at) => Number(lengths[at + 2]) - Number(lengths[at + 1]));
    expect(second).toBeGreaterThan(1.5 * first!);
  },
);

test('a pack from nothing gives a device that holds most of it the few chunks that it lacks, and is not read beyond', async () => {
  const many = prose('many', 4_000_000);
  const changed = edited(many, 24);
  const rig = await openRig(changed, { old: many, pack: 'from nothing' });
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  const { count, compressed } = lackingOf(changed, many);
  expect(count).toBeGreaterThan(15);
  const fromPack = rig.asked.filter(({ path }) => path === `/o/${rig.pack.sha256}`);
  expect(fromPack.length).toBeGreaterThan(1);
  expect(fromPack.every(({ range }) => range !== undefined)).toBe(true);
  // A table, and frames that are no longer than the chunks by themselves would be.
  expect(rig.counts.bytes).toBeLessThan(rig.index.length + compressed + packHeadBytes(rig.records.length));
  expect(rig.state.bytesSent).toBe(rig.counts.bytes);
  expect(rig.packed.length).toBeGreaterThan(1.5 * rig.counts.bytes);
});

test('one chunk that lacks of many comes by itself where the table of a pack would cost more', async () => {
  // Every other chunk is of zeros, or nearly: small frames under a long table.
  const many = Buffer.concat(Array.from({ length: 200 }, (_, n) => Buffer.from(`${n}`.padEnd(110_000))));
  const changed = Buffer.concat([many, Buffer.from('and one more')]);
  const rig = await openRig(changed, { old: many, pack: 'from nothing' });
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  expect(lackingOf(changed, many).count).toBe(1);
  expect(rig.asked.some(({ path }) => path === `/o/${rig.pack.sha256}`)).toBe(false);
  expect(rig.counts.bytes).toBe(rig.index.length + lackingOf(changed, many).compressed);
});

test('a chunk that comes as a frame of something else, or of more, is not believed', async () => {
  for (const lie of [
    zstdCompressSync(noise('lie', 50_000)),
    zstdCompressSync(Buffer.alloc(64_000_000)),
    noise('l', 9),
  ]) {
    const rig = await openRig(V2, { old: V1, pack: false });
    let lies = 0;
    rig.state.misbehave = ({ path }, response) => {
      if (lies > 0 || !rig.records.some(({ sha256: digest }) => path.endsWith(digest))) return false;
      lies += 1;
      response.writeHead(200, { 'content-encoding': 'zstd' }).end(lie);
      return true;
    };
    expect(await rig.outcome(await rig.fetch())).toBe('whole');
    expect([lies, rig.counts.troubles]).toEqual([1, 1]);
  }
});

test('a server that knows no single chunks is asked for ranges of the artifact, one that has no artifact for chunks', async () => {
  for (const has of [{ chunks: false }, { whole: false }]) {
    const rig = await openRig(V2, { ...has, old: V1, pack: false });
    expect(await rig.outcome(await rig.fetch())).toBe('whole');
    const fresh = await openRig(V1, { ...has, pack: false });
    expect(await fresh.outcome(await fresh.fetch())).toBe('whole');
  }
});

test('what is complete is not fetched again', async () => {
  const rig = await openRig(V1);
  await rig.fetch();
  const asked = rig.asked.length;
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  expect(rig.asked.length).toBe(asked);
});

test('a slot is filled in place, beyond its end nothing changes, and what it holds already is neither fetched nor written', async () => {
  const rig = await openRig(V2, { old: V1 });
  const rest = noise('rest', 500_000);
  const slot = await writeSlot(
    rig.dir,
    Buffer.concat([V2.subarray(0, 1_000_000), rest.subarray(0, 500_000), rest, rest]),
  );
  const before = (await readFile(slot)).subarray(V2.length);
  const result = await rig.fetch({ place: slot });
  expect(await rig.outcome(result)).toBe('whole');
  expect((await readFile(slot)).subarray(V2.length).equals(before)).toBe(true);
  expect(result.ok && result.origins.there).toBeGreaterThan(800_000);
});

test.runIf(ALL_SWEEPS)(
  'a slot full of something else is not read through, and what it holds behind that is found all the same',
  async () => {
    const image = noise('image', 20_000_000);
    const rig = await openRig(image, { pack: false });
    const offsetOf = (chunk: number): number => rig.records.slice(0, chunk).reduce((sum, { bytes }) => sum + bytes, 0);
    const [differs, found] = [offsetOf(150), offsetOf(160)];
    expect(found).toBeLessThan(image.length);
    const slot = await writeSlot(rig.dir, Buffer.concat([noise('other', differs), image.subarray(differs)]));
    const result = await rig.fetch({ place: slot });
    expect(await rig.outcome(result)).toBe('whole');
    // Every 32nd was looked for.
    expect(result.ok && result.origins.there).toBe(image.length - found);
  },
);

test('a slot that is not there is not made', async () => {
  const rig = await openRig(V1);
  expect(await rig.outcome(await rig.fetch({ place: join(rig.dir, 'nowhere') }))).toBe('WRITE_FAILED');
  expect(await readdir(rig.dir)).not.toContain('nowhere');
});

/** Sends so much of the body, then cuts the connection; honest from the n-th such request on. */
const cut = (bytes: number, times: number) => {
  let left = times;
  return (path: string) =>
    (asked: { path: string; range?: string | undefined }, response: ServerResponse, object?: Buffer) => {
      if (asked.path !== path || left === 0 || object === undefined) return false;
      left -= 1;
      const start = Number(/^bytes=(\d+)-/.exec(asked.range ?? '')?.[1] ?? 0);
      const range = { 'content-range': `bytes ${start}-${object.length - 1}/${object.length}` };
      response.writeHead(asked.range === undefined ? 200 : 206, { 'content-length': object.length - start, ...range });
      response.write(object.subarray(start, start + bytes), () => setTimeout(() => response.destroy(), 20));
      return true;
    };
};

test('a connection that flaps again and again still ends with the right bytes, and fetches little twice', async () => {
  const rig = await openRig(prose('flapping', 2_500_000));
  rig.state.misbehave = cut(80_000, 30)(`/o/${rig.pack.sha256}`);
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  expect(rig.counts.troubles).toBeGreaterThan(2);
  const frames = rig.counts.troubles * 112 * 1024;
  expect(rig.counts.bytes).toBeLessThan(rig.packed.length + rig.index.length + frames);
});

test('a download that was stopped goes on where it was, without fetching what was verified', async () => {
  const rig = await openRig(noise('long', 3_000_000));
  const stop = new AbortController();
  const stopped = await rig.fetch({
    signal: stop.signal,
    onProgress: (bytes) => void (bytes > 2_000_000 && stop.abort()),
  });
  expect(stopped).toMatchObject({ ok: false, code: 'FETCH_FAILED' });
  const before = rig.counts.bytes;
  expect((await stat(rig.part)).size).toBeGreaterThan(1_000_000);
  const result = await rig.fetch();
  expect(await rig.outcome(result)).toBe('whole');
  expect(rig.counts.bytes - before).toBeLessThan(2_100_000);
  expect(result.ok && result.origins.there).toBeGreaterThan(1_000_000);
});

test('a table of a pack that is torn or nonsense is read again', async () => {
  for (const damage of [
    (table: Buffer) => table.subarray(0, 197),
    () => noise('nonsense', 1_000),
    (table: Buffer) => Buffer.concat([table.subarray(0, 120), noise('n', 320)]),
  ]) {
    const rig = await openRig(V1);
    await rig.fetch();
    const table = join(rig.dir, 'downloads', `${rig.pack.sha256}.table`);
    await writeFile(table, damage(await readFile(table)));
    await writeFile(
      join(rig.dir, 'downloads', rig.artifact.sha256),
      Buffer.concat([V1.subarray(0, 750_000), Buffer.alloc(750_000)]),
    );
    expect(await rig.outcome(await rig.fetch())).toBe('whole');
  }
});

test('what was damaged on the disk is found and fetched again, nothing else is', async () => {
  const rig = await openRig(V1);
  await rig.fetch();
  const file = join(rig.dir, 'downloads', rig.artifact.sha256);
  const damaged = Buffer.from(V1);
  damaged[1_134_567]! ^= 1;
  await writeFile(file, damaged);
  const before = rig.counts.bytes;
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  expect(rig.counts.bytes - before).toBeLessThan(120_000);
});

test('14: a payload byte flipped, download: only that piece is fetched again; fails after N tries (in a pack)', async () => {
  const rig = await openRig(V1);
  const flipped = Buffer.from(rig.packed);
  flipped[Math.floor(flipped.length / 2)]! ^= 1;
  rig.objects.set(rig.pack.sha256, flipped);
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  expect(rig.counts.bytes).toBeLessThan(rig.packed.length + rig.index.length + 2 * 112 * 1024);
});

test('a pack of nonsense is left, and the artifact comes without it', async () => {
  for (const lie of [
    noise('lie', 2_000_000),
    Buffer.concat([(await openRig(V1)).packed.subarray(0, 80), noise('lie', 1_000_000)]),
  ]) {
    const rig = await openRig(V1);
    rig.objects.set(rig.pack.sha256, lie);
    rig.state.pack = { ...rig.pack, bytes: lie.length };
    expect(await rig.outcome(await rig.fetch())).toBe('whole');
  }
});

test('a seed that is damaged costs what it was to save', async () => {
  const rig = await openRig(V2, { old: V1 });
  const damaged = { ...seedOf(V1), read: async (_offset: number, bytes: number) => Buffer.alloc(bytes) };
  expect(await rig.outcome(await rig.fetch({ seeds: [damaged] }))).toBe('whole');
  const gone = { ...seedOf(V1), read: () => Promise.reject(new Error('gone')) };
  const other = await openRig(V2, { old: V1 });
  expect(await other.outcome(await other.fetch({ seeds: [gone] }))).toBe('whole');
});

test('14: a payload byte flipped, download: only that piece is fetched again; fails after N tries (a chunk by itself)', async () => {
  const noisy = noise('wrong', 1_500_000);
  const rig = await openRig(noisy, { pack: false });
  const victim = rig.records[5]!;
  const wrong = Buffer.from(rig.objects.get(victim.sha256)!);
  wrong[0]! ^= 1;
  const whole = Buffer.from(noisy);
  whole[rig.records.slice(0, 5).reduce((sum, { bytes }) => sum + bytes, 0)]! ^= 1;
  rig.objects.set(rig.artifact.sha256, whole);
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  expect(rig.asked.filter(({ path }) => path === `/o/${victim.sha256}`)).toHaveLength(1);

  const hopeless = await openRig(noisy, { pack: false });
  hopeless.objects.set(hopeless.artifact.sha256, whole);
  hopeless.objects.set(victim.sha256, wrong);
  expect(await hopeless.outcome(await hopeless.fetch())).toBe('TARGET_HASH');
  expect(hopeless.asked.filter(({ path }) => path === `/o/${victim.sha256}`)).toHaveLength(2);
});

test('an index that is not the signed one is asked for again, then refused', async () => {
  const rig = await openRig(V1);
  const wrong = Buffer.from(rig.index);
  wrong[100]! ^= 1;
  rig.objects.set(rig.artifact.chunks!.index, wrong);
  expect(await rig.outcome(await rig.fetch())).toBe('TARGET_HASH');
  expect(rig.counts.bytes).toBeLessThanOrEqual(60 * rig.index.length);
});

test('more than was promised is endless data', async () => {
  const rig = await openRig(V1, { pack: false });
  rig.state.misbehave = ({ path }, response, object) => {
    if (path !== `/o/${rig.artifact.sha256}` && !rig.records.some(({ sha256: digest }) => path.endsWith(digest)))
      return false;
    const pump = (): void => void (response.destroyed || response.write(object ?? V1, pump));
    pump();
    return true;
  };
  expect(await rig.outcome(await rig.fetch())).toBe('ENDLESS_DATA');
});

test('an answer that stalls or drips is slow retrieval', async () => {
  const rig = await openRig(V1);
  rig.state.misbehave = ({ path }, response, object) => {
    if (!path.startsWith('/o/') || path === `/o/${rig.artifact.chunks!.index}`) return false;
    response.writeHead(200, { 'content-length': object!.length });
    response.write(object!.subarray(0, 10_000));
    const dripping = setInterval(() => response.write('x'), 5);
    response.on('close', () => clearInterval(dripping));
    return true;
  };
  const result = await rig.fetch({ limits: { windowMs: 20, windowBytesMin: 1_000_000 } });
  expect(await rig.outcome(result)).toBe('SLOW_RETRIEVAL');
});

for (const [what, headers, status] of [
  ['another range', { 'content-range': 'bytes 0-99/100' }, 206],
  ['no range', {}, 206],
  ['of another length', { 'content-range': 'bytes 1000-2000/2001' }, 206],
  ['416', {}, 416],
] as const) {
  test(`a range that is answered with ${what} is not believed`, async () => {
    const rig = await openRig(V1, { pack: false, chunks: false });
    await mkdir(dirname(rig.part), { recursive: true });
    await writeFile(rig.part, V1.subarray(0, 500_000));
    let lies = 0;
    rig.state.misbehave = ({ path, range }, response) => {
      if (path !== `/o/${rig.artifact.sha256}` || range === undefined) return false;
      lies += 1;
      response.writeHead(status, headers);
      response.end(noise('mixed', 10_000));
      return true;
    };
    expect(await rig.outcome(await rig.fetch())).toBe('whole');
    // Asked once more without a range, all of it comes, and is read on.
    expect([lies, rig.counts.attempts]).toEqual([1, 0]);
  });
}

for (const status of [206, 416] as const) {
  test(`a server that answers ${status} to everything is tried for a while, and nothing of it is believed`, async () => {
    const rig = await openRig(V1, { pack: false });
    rig.state.misbehave = ({ path }, response) => {
      if (path !== `/o/${sha256(rig.index)}`) return false;
      response.writeHead(status, { 'content-range': 'bytes 5-9/10' }).end('wrong');
      return true;
    };
    expect(await rig.outcome(await rig.fetch())).toBe('FETCH_FAILED');
    expect([rig.counts.attempts, rig.asked.length]).toEqual([59, 60]);
  });
}

test('where ranges are never given, a pack and the artifact are each read from end to end, once', async () => {
  for (const pack of [true, false]) {
    const rig = await openRig(V1, { pack, chunks: false });
    await mkdir(dirname(rig.part), { recursive: true });
    await writeFile(rig.part, V1.subarray(0, 300_000));
    rig.state.misbehave = ({ range }, response) =>
      range !== undefined && response.writeHead(416, { 'content-range': 'bytes */5' }).end() !== undefined;
    expect(await rig.outcome(await rig.fetch())).toBe('whole');
    expect(rig.counts.attempts).toBe(0);
    expect(rig.asked.filter(({ range }) => range !== undefined).length).toBeLessThanOrEqual(2);
  }
});

test('an answer without a body, or in an encoding that was not asked for, is tried again', async () => {
  for (const [status, headers] of [
    [204, {}],
    [304, {}],
    [302, {}],
    [200, { 'content-encoding': 'gzip' }],
  ] as const) {
    const rig = await openRig(V1, { pack: false });
    let left = 3;
    rig.state.misbehave = ({ path }, response, object) => {
      if (object === undefined || path === `/o/${sha256(rig.index)}` || left === 0) return false;
      left -= 1;
      response.writeHead(status, headers).end(status === 200 ? object : undefined);
      return true;
    };
    expect([status, await rig.outcome(await rig.fetch())]).toEqual([status, 'whole']);
    expect(left).toBe(0);
  }
});

test('a server that answers 200 to a range is read over up to where the range begins', async () => {
  const rig = await openRig(V1, { pack: false, chunks: false });
  await mkdir(dirname(rig.part), { recursive: true });
  await writeFile(rig.part, V1.subarray(0, 500_000));
  rig.state.misbehave = ({ path }, response, object) => {
    if (path !== `/o/${rig.artifact.sha256}`) return false;
    response.end(object);
    return true;
  };
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
});

test('another object under the same name is never mixed in', async () => {
  const rig = await openRig(V1, { pack: false });
  rig.objects.set(rig.artifact.sha256, noise('other', V1.length));
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
});

test('a server that is not there is tried for a while', async () => {
  const rig = await openRig(V1);
  rig.state.misbehave = (_asked, response) => response.destroy() !== undefined;
  expect(await rig.outcome(await rig.fetch())).toBe('FETCH_FAILED');
  expect(rig.counts.attempts).toBe(59);
});

test('a full disk is no space', async () => {
  const rig = await openRig(V1);
  await mkdir(dirname(rig.part), { recursive: true });
  await symlink('/dev/full', rig.part);
  expect(await rig.outcome(await rig.fetch())).toBe('NO_SPACE');
});

test('what the metered link forbids is not fetched', async () => {
  const rig = await openRig(V1);
  expect(await rig.outcome(await rig.fetch({ mayFetch: async () => false }))).toBe('FETCH_FAILED');
  expect(rig.asked).toEqual([]);
});

test('the digest of the whole follows from its index: a file that is assembled is the artifact', async () => {
  const rig = await openRig(noise('any', 1_000_000));
  const result = await rig.fetch();
  expect(sha256(await readFile(result.ok ? result.file : ''))).toBe(rig.artifact.sha256);
});
