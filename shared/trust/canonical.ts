/**
 * One value, one sequence of bytes: what is hashed and signed. There are two forms, which differ only in how strings
 * are escaped.
 */
import { createHash } from 'node:crypto';
import { canonicalize } from '@tufjs/canonical-json';
import { Sha256 } from '../ids.ts';

/**
 * The form of everything that Sluice signs itself (payloads, leaves, audit lines): JSON without spaces, members sorted
 * by UTF-16 code units, strings as `JSON.stringify` escapes them, so that it parses again whatever people wrote. Like
 * RFC 8785, but for integers only. Throws a `TypeError` for fractions, `undefined`, functions and other things that
 * JSON has no word for.
 */
export const canonicalJson = (value: unknown): string => {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number' && Number.isInteger(value)) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value === 'object') {
    const members = Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, member]) => `${JSON.stringify(name)}:${canonicalJson(member)}`);
    return `{${members.join(',')}}`;
  }
  throw new TypeError(`canonical JSON has no form for ${typeof value === 'number' ? value : typeof value}`);
};

/**
 * The form of TUF metadata and of key ids (TUF specification, section 4.2): OLPC canonical JSON, which escapes only `"`
 * and `\`. With control characters in a string, such as the newlines of a PEM, it does not parse as JSON: hash it, sign
 * it, never store it.
 */
export const canonicalTuf = (value: unknown): string => canonicalize(value);

/** SHA-256 of bytes, or of a text as UTF-8, in hexadecimal. */
export const sha256Hex = (bytes: string | Uint8Array): Sha256 =>
  Sha256.parse(createHash('sha256').update(bytes).digest('hex'));
