import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseEnvironment } from '#agent/application/environment-file.ts';
import { redact } from '#agent/application/redact.ts';

const read = (text: string) => {
  const parsed = parseEnvironment(text);
  return parsed.ok ? parsed.value : parsed.detail;
};

test('values are taken as they stand, without the quotes around all of them', () => {
  expect(
    read(`# of this device
URL=postgres://me:p=ss@db/x?y=1#z
EMPTY=
SPACED= two words\u0020
QUOTED="with 'these' inside"
SINGLE='a "b" c'
DOLLAR=$HOME\\n
WINDOWS=line\r
   # indented
`),
  ).toEqual({
    URL: 'postgres://me:p=ss@db/x?y=1#z',
    EMPTY: '',
    SPACED: ' two words ',
    QUOTED: "with 'these' inside",
    SINGLE: 'a "b" c',
    DOLLAR: '$HOME\\n',
    WINDOWS: 'line',
  });
});

test('bad lines are refused with their numbers, and without what they say', () => {
  const said = read('A=1\nhunter2\n9X=1\nexport B=2\nA=3\nSLUICE_DATA=/\nPORT=1\nC="open\nD=\u0007');
  expect(said).toBe(
    [
      'line 2 has no "="',
      'line 3 has a name that is none: letters, digits and "_" before the "="',
      'line 4 has a name that is none: letters, digits and "_" before the "="',
      'line 5 names A again',
      'line 6 sets SLUICE_DATA, which the agent sets itself',
      'line 7 sets PORT, which the agent sets itself',
      'line 8 begins with a quote and does not end with it',
      'line 9 has a control character',
    ].join('; '),
  );
});

test('whatever a value is, it is read back, or its line is named', () => {
  fc.assert(
    fc.property(fc.stringMatching(/^[A-Z_]{1,8}$/), fc.string({ unit: 'grapheme' }), (name, value) => {
      const parsed = parseEnvironment(`X_FIRST=1\n${name}="${value.replaceAll('\n', '')}"\n`);
      const isRight = parsed.ok
        ? parsed.value[name] === value.replaceAll('\n', '')
        : parsed.detail.startsWith('line 2 ');
      expect(isRight).toBe(true);
    }),
  );
});

test('secrets are taken out of texts, the longer first; short words stay', () => {
  expect(redact('token=abcdef12 and abcdef, on', ['abcdef', 'abcdef12', 'on'])).toBe('token=[secret] and [secret], on');
});
