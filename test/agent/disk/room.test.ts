import { expect, test } from 'vitest';
import { noRoomFor, openRoomWatch, RESERVE_BYTES, spaceFor } from '#agent/disk/room.ts';

test('what does not fit is said with all figures, the reserve too', () => {
  expect(noRoomFor(1_000, RESERVE_BYTES + 1_000)).toBeUndefined();
  expect(noRoomFor(1_000, RESERVE_BYTES + 999)).toBe(
    `1000 bytes are needed and ${RESERVE_BYTES + 999} are free, of which ${RESERVE_BYTES} stay free for everything else`,
  );
  // What writes nothing needs no room.
  expect(noRoomFor(0, 0)).toBeUndefined();
  expect(spaceFor({ bytes: 10, entries: 3 })).toBe(10 + 3 * 4096);
});

/** A disk with so much free, to which something is written later than it is asked for. */
const disk = (free: number) => {
  const state = { free, looks: 0 };
  const room = openRoomWatch('/', async () => {
    state.looks += 1;
    return state.free;
  });
  return { state, room };
};

test('what is written little by little leaves the reserve, also of what is under way, and looks seldom', async () => {
  for (const late of [0, 1, 16]) {
    const { state, room } = disk(RESERVE_BYTES + 10_000_000);
    const underWay: number[] = [];
    let spent = 0;
    while ((await room.spend(50_000)) === undefined) {
      spent += 50_000;
      underWay.push(50_000);
      if (underWay.length <= late) continue;
      state.free -= underWay.pop()!;
      room.written(50_000);
    }
    expect(spent).toBe(10_000_000);
    expect(state.looks).toBeLessThan(12);
  }
});

test('what others write meanwhile is noticed within a mebibyte', async () => {
  const { state, room } = disk(RESERVE_BYTES + 10_000_000);
  expect(await room.spend(100_000)).toBeUndefined();
  state.free = RESERVE_BYTES + 1;
  let spent = 0;
  let why: string | undefined;
  for (; why === undefined; spent += 100_000) why = await room.spend(100_000);
  expect(spent).toBeLessThanOrEqual(1_200_000);
  expect(why).toBe(`${state.free} bytes are free, of which ${RESERVE_BYTES} stay free for everything else`);
});
