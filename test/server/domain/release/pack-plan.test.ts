import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  LEVEL_BEST,
  LEVEL_FIRST,
  type MadePack,
  OLDS_MAX,
  type PackJob,
  planPacks,
} from '#server/domain/release/pack-plan.ts';
import { digest } from '#test/server/store/records.ts';

const GIB = 1024 ** 3;
const chunked = (seed: number) => ({ artifact: digest(seed), index: digest(seed + 1_000), bytes: 1_000 });
const target = (seed: number, ...olds: number[]) => ({ ...chunked(seed), olds: olds.map(chunked) });
const madeBy = ({ to, from, level }: PackJob, bytes = 100): MadePack => ({
  to: to.index,
  from: from?.index ?? null,
  level,
  bytes,
});
const words = (jobs: PackJob[]): string[] =>
  jobs.map(
    ({ to, from, level }) =>
      `${Number.parseInt(from?.artifact ?? '0', 16)}->${Number.parseInt(to.artifact, 16)} at ${level}`,
  );

test('first packs for everyone, from nothing and from each old release, then the best between releases', () => {
  const targets = [target(9, 8, 7), target(5)];
  const first = planPacks(targets, [], GIB);
  expect(words(first)).toEqual(['0->9 at 9', '8->9 at 9', '7->9 at 9', '0->5 at 9']);
  const second = planPacks(
    targets,
    first.map((job) => madeBy(job)),
    GIB,
  );
  expect(words(second)).toEqual(['8->9 at 19', '7->9 at 19']);
  expect(
    planPacks(
      targets,
      [...first, ...second].map((job) => madeBy(job)),
      GIB,
    ),
  ).toEqual([]);
});

test('at most eight old releases, those that run on most devices; never from an artifact to itself', () => {
  const olds = [9, ...Array.from({ length: 12 }, (_, index) => 20 + index)];
  const jobs = planPacks([target(9, ...olds)], [], GIB);
  expect(jobs).toHaveLength(1 + OLDS_MAX);
  expect(jobs.map(({ from }) => from?.artifact)).not.toContain(digest(9));
  expect(jobs.map(({ from }) => from?.artifact)).not.toContain(digest(29));
});

test('a pack that is hardly a delta is not made again at the best level', () => {
  const [nothing, delta] = planPacks([target(9, 8)], [], GIB);
  expect(planPacks([target(9, 8)], [madeBy(nothing!), madeBy(delta!, 65 * 1024 ** 2)], GIB)).toEqual([]);
});

test('once the wanted packs fill the room no more are made', () => {
  const [nothing] = planPacks([target(9, 8)], [], GIB);
  expect(planPacks([target(9, 8)], [madeBy(nothing!, 899)], 1_000)).toHaveLength(1);
  expect(planPacks([target(9, 8)], [madeBy(nothing!, 900)], 1_000)).toEqual([]);
});

test('whatever is made in the planned order, making ends, and nothing is made twice at a level', () => {
  const Target = fc.record({
    to: fc.integer({ min: 1, max: 6 }),
    olds: fc.array(fc.integer({ min: 1, max: 6 }), { maxLength: 12 }),
  });
  fc.assert(
    fc.property(fc.array(Target, { maxLength: 6 }), (shapes) => {
      const targets = shapes.map(({ to, olds }) => target(to, ...olds));
      const made = new Map<string, MadePack>();
      const seen: string[] = [];
      for (let round = 0; round < 200; round += 1) {
        const [job] = planPacks(targets, [...made.values()], GIB);
        if (job === undefined) break;
        const pack = madeBy(job);
        seen.push(`${pack.to}/${pack.from}/${pack.level}`);
        made.set(`${pack.to}/${pack.from}`, pack);
      }
      expect(new Set(seen).size).toBe(seen.length);
      expect(planPacks(targets, [...made.values()], GIB)).toEqual([]);
      for (const pack of made.values()) expect(pack.level).toBe(pack.from === null ? LEVEL_FIRST : LEVEL_BEST);
    }),
  );
});
