/** Short ids that people can say and type: no vowels (no words), no l, o, 0, 1. */
import { randomInt } from 'node:crypto';
import { Id } from '#shared/ids.ts';

const LETTERS = '23456789bcdfghjkmnpqrstvwxz';
const LENGTH = 8;

/**
 * `prefix` and 8 of 27 letters: with 10,000 ids given, the chance that the next one is taken is 1 in 28 million (and
 * the store refuses it).
 */
export const newId = (prefix: string): Id =>
  Id.parse(prefix + Array.from({ length: LENGTH }, () => LETTERS[randomInt(LETTERS.length)]).join(''));
