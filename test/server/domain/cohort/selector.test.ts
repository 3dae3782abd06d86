import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { matches, printSelector, type Selector, type SelectorSubject } from '#server/domain/cohort/selector.ts';
import { parseSelector } from '#server/domain/cohort/selector-parser.ts';

const gateway: SelectorSubject = {
  id: 'gw-01',
  compatible: 'gw2-arm',
  agent: '0.1.0',
  running: { product: 'gateway', version: '1.4.0' },
  tags: { site: 'lyon', customer: 'ACME Industries', ring: '1' },
  attributes: { model: 'gw2', site: 'paris', 'os.name': 'linux' },
};
const selects = (text: string, subject: SelectorSubject = gateway): boolean => {
  const parsed = parseSelector(text);
  if (!parsed.ok) throw new Error(parsed.detail);
  return matches(parsed.value, subject);
};
const refusal = (text: string): string => {
  const parsed = parseSelector(text);
  return parsed.ok ? 'understood' : parsed.detail;
};

describe('whom a selector selects', () => {
  test.each([
    'site=lyon',
    'site = lyon and model in (gw2, gw3)',
    'site!=paris',
    'model not in (gw1, gw3)',
    'not site=paris',
    'site=paris or ring=1',
    '(site=paris or ring=1) and model=gw2',
    'id=gw-*',
    'id in (gw-0*, x)',
    'customer="ACME Industries"',
    "customer='ACME Industries'",
    'customer="ACME "*',
    'customer=*',
    'version=1.4.0 and product=gateway and agent=0.1.0 and compatible=gw2-arm',
    'os.name=linux',
    'SITE_MISSING=1 or site=lyon'.toLowerCase(),
    'missing!=anything',
    'missing not in (a, b)',
    'site=lyon AND NOT ring=2',
  ])('%s selects gw-01', (text) => {
    expect(selects(text)).toBe(true);
  });

  test.each([
    'site=paris',
    'missing=*',
    'missing in (a, b)',
    'not id=gw-*',
    'site=lyon and ring=2',
    'customer="ACME*"',
    'site=Lyon',
  ])('%s does not', (text) => {
    expect(selects(text)).toBe(false);
  });

  test('and binds stronger than or, not stronger than both', () => {
    expect(parseSelector('a=1 or not b=2 and c=3')).toEqual(parseSelector('a=1 or ((not b=2) and c=3)'));
  });

  test('an operator’s tag hides the attribute that the device reports under the same name', () => {
    expect(selects('site=lyon')).toBe(true);
    expect(selects('site=paris')).toBe(false);
  });

  test('neither tag nor attribute can pose as a built-in key', () => {
    const liar = { ...gateway, tags: { id: 'gw-99' }, attributes: { compatible: 'other' } };
    expect(selects('id=gw-99', liar)).toBe(false);
    expect(selects('compatible=other', liar)).toBe(false);
  });

  test('a device that runs nothing has no version', () => {
    expect(selects('version=*', { ...gateway, running: null, agent: null })).toBe(false);
    expect(selects('version!=1.4.0', { ...gateway, running: null, agent: null })).toBe(true);
  });

  test('names that every object has are not keys of every device', () => {
    expect(selects('constructor=*')).toBe(false);
    expect(selects('to.string=*')).toBe(false);
  });
});

describe('what is wrong with a selector, and where', () => {
  test.each([
    ['', 'column 1: expected a condition, such as site=lyon, but the selector ends here\n  \n  ^'],
    ['site=', 'column 6: expected a value, but the selector ends here\n  site=\n       ^'],
    ['site', 'column 5: expected =, !=, "in" or "not in" after "site", but the selector ends here\n  site\n      ^'],
    ['site=lyon ring=1', 'column 11: expected "and", "or" or the end\n  site=lyon ring=1\n            ^'],
    [
      'site=lyon and',
      'column 14: expected a condition, such as site=lyon, but the selector ends here\n  site=lyon and\n               ^',
    ],
    ['(site=lyon', 'column 11: expected ")", but the selector ends here\n  (site=lyon\n            ^'],
    ['model in gw2', 'column 10: expected "(" and a list of values\n  model in gw2\n           ^'],
    ['model in (gw2 gw3)', 'column 15: expected "," or ")"\n  model in (gw2 gw3)\n                ^'],
    ['model not gw2', 'column 11: expected "in" after "not"\n  model not gw2\n            ^'],
    [
      'Site=lyon',
      'column 1: expected a key: a lower-case letter, then letters, digits, "_", "." or "-"\n  Site=lyon\n  ^',
    ],
    ['site=and', 'column 6: expected a value ("and" needs quotes to be one)\n  site=and\n       ^'],
    ['site="lyon', 'column 6: a quote that is never closed\n  site="lyon\n       ^'],
    ['site=lyon *', 'column 11: a "*" must follow its value without a space\n  site=lyon *\n            ^'],
    ['site!lyon', 'column 5: a lone "!" (write != or not)\n  site!lyon\n      ^'],
    ['site=ly&n', 'column 8: unexpected "&" (values with such characters need quotes)\n  site=ly&n\n         ^'],
  ])('%s', (text, message) => {
    expect(refusal(text)).toBe(message);
  });

  test('the caret stays below its place in a long selector', () => {
    const lines = refusal(`${'site=lyon and '.repeat(20)}=`).split('\n');
    expect(lines[1]![lines[2]!.indexOf('^')]).toBe('=');
    expect(lines[0]).toContain('column 281:');
  });

  test('length and depth have limits', () => {
    expect(refusal(`site=${'x'.repeat(1024)}`)).toContain('longer than 1024 characters');
    expect(refusal(`${'('.repeat(40)}a=1${')'.repeat(40)}`)).toContain('nested deeper than 32');
    expect(refusal(`${'not '.repeat(40)}a=1`)).toContain('nested deeper than 32');
    expect(refusal(`${'('.repeat(31)}a=1${')'.repeat(31)}`)).toBe('understood');
  });

  test('whatever is typed is answered with a selector or a refusal, never with a crash', () => {
    const pieces = fc.constantFrom(
      'site',
      '=',
      '!=',
      '(',
      ')',
      ',',
      '*',
      '"',
      "'",
      ' ',
      'and',
      'or',
      'not',
      'in',
      '\\',
      '!',
      'ß',
      '1.4.0',
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ maxLength: 60 }),
          fc.array(pieces, { maxLength: 30 }).map((all) => all.join('')),
        ),
        (text) => {
          const parsed = parseSelector(text);
          expect(parsed.ok || parsed.code).toBe(parsed.ok ? true : 'selector-invalid');
        },
      ),
      { numRuns: 500 },
    );
  });
});

const key = fc.stringMatching(/^[a-z][a-z0-9_.-]{0,8}$/).filter((word) => !['and', 'or', 'not', 'in'].includes(word));
const value = fc.record({ text: fc.string({ maxLength: 8, unit: 'grapheme' }), prefix: fc.boolean() });
const anySelector = fc.letrec<{ selector: Selector }>((tie) => ({
  selector: fc.oneof(
    { depthSize: 'small', maxDepth: 4 },
    fc.record({ kind: fc.constant('is' as const), key, value }),
    fc.record({ kind: fc.constant('is-not' as const), key, value }),
    fc.record({ kind: fc.constant('in' as const), key, values: fc.array(value, { minLength: 1, maxLength: 3 }) }),
    fc.record({ kind: fc.constant('not-in' as const), key, values: fc.array(value, { minLength: 1, maxLength: 3 }) }),
    fc.record({ kind: fc.constant('not' as const), selector: tie('selector') }),
    fc.record({ kind: fc.constant('and' as const), all: fc.array(tie('selector'), { minLength: 2, maxLength: 3 }) }),
    fc.record({ kind: fc.constant('or' as const), any: fc.array(tie('selector'), { minLength: 2, maxLength: 3 }) }),
  ),
})).selector;

test('what is printed is read back as the same selector', () => {
  fc.assert(
    fc.property(anySelector, (selector) => {
      const text = printSelector(selector);
      fc.pre(text.length <= 1024);
      expect(parseSelector(text)).toEqual({ ok: true, value: selector });
    }),
    { numRuns: 300 },
  );
});
