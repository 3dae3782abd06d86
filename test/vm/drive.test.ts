import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { randomOf } from '#test/simulation/random.ts';
import { FATES, openDrive, SECTOR_BYTES } from './drive.ts';

const sector = (fill: number): Buffer => Buffer.alloc(SECTOR_BYTES, fill);
const random = randomOf(1, 'drive');

test('what was flushed, or written to the platter at once, is there after any cut', () => {
  for (const fate of FATES) {
    const drive = openDrive(Buffer.alloc(8 * SECTOR_BYTES));
    drive.write(0, sector(1));
    drive.flush();
    drive.write(SECTOR_BYTES, sector(2), true);
    drive.write(2 * SECTOR_BYTES, sector(3));
    expect(drive.cut(fate, random).unflushed).toBe(1);
    expect(drive.read(0, 2 * SECTOR_BYTES)).toEqual(Buffer.concat([sector(1), sector(2)]));
  }
});

test('the machine sees what it wrote, until power is cut: then it may be gone', () => {
  const drive = openDrive(Buffer.alloc(4 * SECTOR_BYTES));
  drive.write(0, sector(1));
  expect(drive.read(0, SECTOR_BYTES)).toEqual(sector(1));
  expect(drive.cut('lost', random)).toEqual({ unflushed: 1, lost: 1 });
  expect(drive.read(0, SECTOR_BYTES)).toEqual(sector(0));
});

test('in order: the first writes stay, one is torn, the rest is gone', () => {
  for (let seed = 0; seed < 50; seed += 1) {
    const drive = openDrive(Buffer.alloc(6 * SECTOR_BYTES));
    for (const at of [0, 1, 2]) drive.write(2 * at * SECTOR_BYTES, Buffer.alloc(2 * SECTOR_BYTES, at + 1));
    drive.cut('in-order', randomOf(seed, 'in order'));
    const written = [0, 1, 2, 3, 4, 5].map((at) => drive.read(at * SECTOR_BYTES, 1 * SECTOR_BYTES)[0]!);
    const halves = [0, 1, 2].map((at) => written.slice(2 * at, 2 * at + 2).filter((fill) => fill !== 0).length);
    expect(halves.filter((there) => there === 1).length).toBeLessThanOrEqual(1);
    expect(halves).toEqual([...halves].sort((one, other) => other - one));
  }
});

test('after a cut every sector holds something that was written to it and not flushed over, never a mixture', () => {
  const step = fc.oneof(
    fc.record({ at: fc.nat(3), fill: fc.integer({ min: 1, max: 255 }), sectors: fc.integer({ min: 1, max: 2 }) }),
    fc.constant('flush' as const),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 20 }), fc.constantFrom(...FATES), fc.nat(), (steps, fate, seed) => {
      const drive = openDrive(Buffer.alloc(5 * SECTOR_BYTES));
      const possible = Array.from({ length: 5 }, () => [0]);
      for (const one of steps) {
        if (one === 'flush') {
          drive.flush();
          for (const fills of possible) fills.splice(0, fills.length - 1);
        } else {
          drive.write(one.at * SECTOR_BYTES, Buffer.alloc(one.sectors * SECTOR_BYTES, one.fill));
          for (let at = one.at; at < one.at + one.sectors; at += 1) possible[at]!.push(one.fill);
        }
      }
      drive.cut(fate, randomOf(seed, 'property'));
      for (const [at, fills] of possible.entries()) {
        const content = drive.read(at * SECTOR_BYTES, SECTOR_BYTES);
        expect(fills.map((fill) => sector(fill).equals(content))).toContain(true);
      }
    }),
  );
});
