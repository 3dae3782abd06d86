/**
 * Selectors: which devices a cohort means, `site=lyon and model in (gw2, gw3)`. What one is, whom it selects, how it is written,
 * how it is read. The grammar is in docs/selectors.md. Reading is recursive descent over a handful of tokens, bounded in length
 * and depth; errors name the column and what was expected there.
 */
import { unreachable } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';

/** A value to compare with; `prefix`: every value that begins with it (written with a `*` behind it). */
export type SelectorValue = { text: string; prefix: boolean };

export type Selector =
  | { kind: 'is'; key: string; value: SelectorValue }
  | { kind: 'is-not'; key: string; value: SelectorValue }
  | { kind: 'in'; key: string; values: SelectorValue[] }
  | { kind: 'not-in'; key: string; values: SelectorValue[] }
  | { kind: 'not'; selector: Selector }
  /** Two or more. */
  | { kind: 'and'; all: Selector[] }
  | { kind: 'or'; any: Selector[] };

export const SELECTOR_LIMITS = { charsMax: 1024, depthMax: 32 } as const;

/** What is known of a device; a `DeviceRecord` fits. */
export type SelectorSubject = {
  id: string;
  compatible: string;
  agent: string | null;
  running: { product: string; version: string } | null;
  tags: Record<string, string>;
  attributes: Record<string, string>;
};

/** Keys that every device has; they can not be hidden by a tag of the same name. */
export const BUILT_IN_KEYS = ['id', 'compatible', 'agent', 'version', 'product'] as const;

/** Built-ins, then tags (an operator's word), then reported attributes (the device's own). */
const valueOf = (subject: SelectorSubject, key: string): string | undefined => {
  switch (key) {
    case 'id':
    case 'compatible':
      return subject[key];
    case 'agent':
      return subject.agent ?? undefined;
    case 'version':
    case 'product':
      return subject.running?.[key];
    default:
      return own(subject.tags, key) ?? own(subject.attributes, key);
  }
};
const own = (values: Record<string, string>, key: string): string | undefined =>
  Object.hasOwn(values, key) ? values[key] : undefined;

const fits = (actual: string | undefined, value: SelectorValue): boolean =>
  actual !== undefined && (value.prefix ? actual.startsWith(value.text) : actual === value.text);

/** Is the device selected? One that lacks the key is not equal to anything: `!=` and `not in` select it. */
export const matches = (selector: Selector, subject: SelectorSubject): boolean => {
  switch (selector.kind) {
    case 'is':
      return fits(valueOf(subject, selector.key), selector.value);
    case 'is-not':
      return !fits(valueOf(subject, selector.key), selector.value);
    case 'in':
      return selector.values.some((value) => fits(valueOf(subject, selector.key), value));
    case 'not-in':
      return !selector.values.some((value) => fits(valueOf(subject, selector.key), value));
    case 'not':
      return !matches(selector.selector, subject);
    case 'and':
      return selector.all.every((part) => matches(part, subject));
    case 'or':
      return selector.any.some((part) => matches(part, subject));
    default:
      return unreachable(selector);
  }
};

const KEYWORDS: ReadonlySet<string> = new Set(['and', 'or', 'not', 'in']);
const BARE_WORD = /^[A-Za-z0-9_][A-Za-z0-9_.:+@/-]*$/;

const printValue = ({ text, prefix }: SelectorValue): string => {
  if (prefix && text === '') return '*';
  const isBare = BARE_WORD.test(text) && !KEYWORDS.has(text.toLowerCase());
  const written = isBare ? text : `"${text.replaceAll(/["\\]/g, (char) => `\\${char}`)}"`;
  return prefix ? `${written}*` : written;
};
const printList = (values: SelectorValue[]): string => `(${values.map(printValue).join(', ')})`;
const printPart = (selector: Selector): string =>
  selector.kind === 'and' || selector.kind === 'or' ? `(${printSelector(selector)})` : printSelector(selector);

/** The one canonical way to write it; parsing that gives the same selector again. */
export const printSelector = (selector: Selector): string => {
  switch (selector.kind) {
    case 'is':
      return `${selector.key}=${printValue(selector.value)}`;
    case 'is-not':
      return `${selector.key}!=${printValue(selector.value)}`;
    case 'in':
      return `${selector.key} in ${printList(selector.values)}`;
    case 'not-in':
      return `${selector.key} not in ${printList(selector.values)}`;
    case 'not':
      return `not ${printPart(selector.selector)}`;
    case 'and':
      return selector.all.map(printPart).join(' and ');
    case 'or':
      return selector.any.map(printPart).join(' or ');
    default:
      return unreachable(selector);
  }
};

// ---- Reading

type Token =
  | { kind: 'word'; text: string; at: number; end: number }
  | { kind: 'quoted'; text: string; at: number; end: number }
  | { kind: '=' | '!=' | '(' | ')' | ',' | '*' | 'end'; at: number; end: number };

/** Thrown and caught within this file only: it unwinds the descent. */
class Unreadable extends Error {
  at: number;
  constructor(at: number, message: string) {
    super(message);
    this.at = at;
  }
}

const KEY = /^[a-z][a-z0-9_.-]{0,63}$/;
const WORD = /[A-Za-z0-9_][A-Za-z0-9_.:+@/-]*/y;
const SPACE = /\s/;

/** `selector-invalid` with a message of three lines: what is wrong, the selector, and a caret below the place. */
export const parseSelector = (text: string): Result<Selector> => {
  try {
    if (text.length > SELECTOR_LIMITS.charsMax) {
      throw new Unreadable(SELECTOR_LIMITS.charsMax, `longer than ${SELECTOR_LIMITS.charsMax} characters`);
    }
    return accept(new Parser(tokensOf(text)).whole());
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    return refuse('selector-invalid', pointAt(text, error.at, error.message));
  }
};

const SHOWN_BEFORE = 60;
const SHOWN_AFTER = 20;
const pointAt = (text: string, at: number, message: string): string => {
  const from = Math.max(0, at - SHOWN_BEFORE);
  const shown = text.slice(from, at + SHOWN_AFTER).replaceAll(/\s/g, ' ');
  return `column ${at + 1}: ${message}\n  ${shown}\n  ${' '.repeat(at - from)}^`;
};

const tokensOf = (text: string): Token[] => {
  const tokens: Token[] = [];
  let at = 0;
  while (at < text.length) {
    if (SPACE.test(text[at]!)) {
      at += 1;
      continue;
    }
    const token = tokenAt(text, at);
    tokens.push(token);
    at = token.end;
  }
  tokens.push({ kind: 'end', at: text.length, end: text.length });
  return tokens;
};

const tokenAt = (text: string, at: number): Token => {
  const char = text[at]!;
  if (char === '=' || char === '(' || char === ')' || char === ',' || char === '*') {
    return { kind: char, at, end: at + 1 };
  }
  if (char === '!') {
    if (text[at + 1] === '=') return { kind: '!=', at, end: at + 2 };
    throw new Unreadable(at, 'a lone "!" (write != or not)');
  }
  if (char === '"' || char === "'") return quotedAt(text, at, char);
  WORD.lastIndex = at;
  const word = WORD.exec(text)?.[0];
  if (word === undefined)
    throw new Unreadable(at, `unexpected ${JSON.stringify(char)} (values with such characters need quotes)`);
  return { kind: 'word', text: word, at, end: at + word.length };
};

const quotedAt = (text: string, at: number, quote: string): Token => {
  let value = '';
  for (let next = at + 1; next < text.length; next++) {
    const char = text[next]!;
    if (char === quote) return { kind: 'quoted', text: value, at, end: next + 1 };
    if (char === '\\') next += 1;
    value += text[next] ?? '';
  }
  throw new Unreadable(at, 'a quote that is never closed');
};

class Parser {
  #tokens: Token[];
  #next = 0;
  constructor(tokens: Token[]) {
    this.#tokens = tokens;
  }

  whole(): Selector {
    const selector = this.#or(0);
    if (this.#peek().kind !== 'end') this.#fail('expected "and", "or" or the end');
    return selector;
  }

  #or(depth: number): Selector {
    const any = [this.#and(depth)];
    while (this.#takeKeyword('or')) any.push(this.#and(depth));
    return any.length === 1 ? any[0]! : { kind: 'or', any };
  }

  #and(depth: number): Selector {
    const all = [this.#not(depth)];
    while (this.#takeKeyword('and')) all.push(this.#not(depth));
    return all.length === 1 ? all[0]! : { kind: 'and', all };
  }

  #not(depth: number): Selector {
    if (depth >= SELECTOR_LIMITS.depthMax) this.#fail(`nested deeper than ${SELECTOR_LIMITS.depthMax}`);
    if (this.#takeKeyword('not')) return { kind: 'not', selector: this.#not(depth + 1) };
    if (this.#take('(')) {
      const selector = this.#or(depth + 1);
      this.#expect(')', 'expected ")"');
      return selector;
    }
    return this.#comparison();
  }

  #comparison(): Selector {
    const token = this.#peek();
    if (token.kind !== 'word' || isKeyword(token)) this.#fail('expected a condition, such as site=lyon');
    if (token.kind !== 'word' || !KEY.test(token.text)) {
      this.#fail('expected a key: a lower-case letter, then letters, digits, "_", "." or "-"');
    }
    this.#next += 1;
    const key = token.text;
    if (this.#take('=')) return { kind: 'is', key, value: this.#value() };
    if (this.#take('!=')) return { kind: 'is-not', key, value: this.#value() };
    if (this.#takeKeyword('in')) return { kind: 'in', key, values: this.#list() };
    if (this.#takeKeyword('not')) {
      if (!this.#takeKeyword('in')) this.#fail('expected "in" after "not"');
      return { kind: 'not-in', key, values: this.#list() };
    }
    return this.#fail(`expected =, !=, "in" or "not in" after "${key}"`);
  }

  #list(): SelectorValue[] {
    this.#expect('(', 'expected "(" and a list of values');
    const values = [this.#value()];
    while (this.#take(',')) values.push(this.#value());
    this.#expect(')', 'expected "," or ")"');
    return values;
  }

  #value(): SelectorValue {
    const token = this.#peek();
    if (this.#take('*')) return { text: '', prefix: true };
    if (token.kind === 'word' && isKeyword(token))
      this.#fail(`expected a value ("${token.text}" needs quotes to be one)`);
    if (token.kind !== 'word' && token.kind !== 'quoted') this.#fail('expected a value');
    this.#next += 1;
    const star = this.#peek();
    if (star.kind !== '*') return { text: textOf(token), prefix: false };
    if (star.at !== token.end) this.#fail('a "*" must follow its value without a space');
    this.#next += 1;
    return { text: textOf(token), prefix: true };
  }

  #peek(): Token {
    return this.#tokens[this.#next]!; // the last token, `end`, is never taken
  }
  #take(kind: '=' | '!=' | '(' | ')' | ',' | '*'): boolean {
    if (this.#peek().kind !== kind) return false;
    this.#next += 1;
    return true;
  }
  #takeKeyword(keyword: string): boolean {
    const token = this.#peek();
    if (token.kind !== 'word' || token.text.toLowerCase() !== keyword) return false;
    this.#next += 1;
    return true;
  }
  #expect(kind: '(' | ')', message: string): void {
    if (!this.#take(kind)) this.#fail(message);
  }
  #fail(message: string): never {
    const token = this.#peek();
    throw new Unreadable(token.at, token.kind === 'end' ? `${message}, but the selector ends here` : message);
  }
}

const isKeyword = (token: { text: string }): boolean => KEYWORDS.has(token.text.toLowerCase());
const textOf = (token: Token): string => ('text' in token ? token.text : '');
