/**
 * Selectors: which devices a cohort means, `site=lyon and model in (gw2, gw3)`. What one is, whom it selects, how it is
 * written; selector-parser.ts reads one. The grammar is in docs/selectors.md.
 */
import { unreachable } from '#shared/ids.ts';

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

/**
 * What every device has, which no tag of the same name can hide; then tags (an operator's order), then reported
 * attributes (the device's own).
 */
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

export const KEYWORDS: ReadonlySet<string> = new Set(['and', 'or', 'not', 'in']);
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
