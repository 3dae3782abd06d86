/**
 * Reads selectors: recursive descent over a handful of tokens, bounded in length and depth. Errors name the column and
 * what was expected there.
 */
import { accept, type Result, refuse } from '#shared/problems.ts';
import { KEYWORDS, SELECTOR_LIMITS, type Selector, type SelectorValue } from './selector.ts';

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
