import { expect, test } from 'vitest';
import { type Boots, hear } from '#server/domain/device/boots.ts';
import { Id } from '#shared/ids.ts';

/** Which of these lives, one letter each, returned. */
const returns = (lives: string): string => {
  let known: Boots | undefined;
  let found = '';
  for (const life of lives) {
    const { next, returned } = hear(known, Id.parse(life));
    if (returned) found += life;
    known = next;
  }
  return found;
};

test.each([
  ['a device that goes on', 'AAAA', ''],
  ['a device that restarts all the time', 'ABCDEFGHABCDEFGH'.slice(0, 8), ''],
  ['a connection that flaps', 'AAABBBBCCC', ''],
  ['two devices that take turns', 'ABABA', 'ABA'],
  ['three', 'ABCABC', 'ABC'],
  ['two, of which one restarts', 'ABACADA', 'AAA'],
])('%s', (_what, lives, found) => {
  expect(returns(lives)).toBe(found);
});

test('only so many lives are remembered', () => {
  let known: Boots | undefined;
  for (let life = 0; life < 1_000; life += 1) known = hear(known, Id.parse(`b${life}`)).next;
  expect(known?.before.length).toBeLessThan(10);
});
