/** Keeps a device's secrets out of what leaves it: logs of applications, messages of checks and hooks. */

/** Shorter ones are words like "on", whose removal would hurt more than help. */
const SECRET_CHARS_MIN = 6;

/** Stands where text was cut before it was redacted: what is beside it may be half a secret. */
export const CUT = '…';

/**
 * Every occurrence of a secret becomes `[secret]`; longer secrets first, since one may be part of another. So do halves
 * of them where the text was cut.
 */
export const redact = (text: string, secrets: readonly string[]): string => {
  const worth = [...new Set(secrets)]
    .filter((secret) => secret.length >= SECRET_CHARS_MIN)
    .sort((a, b) => b.length - a.length);
  const whole = worth.reduce((so, secret) => so.replaceAll(secret, '[secret]'), text);
  return whole
    .split(CUT)
    .map((part) => withoutHalves(part, worth))
    .join(CUT);
};

const withoutHalves = (cut: string, secrets: readonly string[]): string => {
  // Of a character that was cut itself.
  const part = cut.replace(/^\uFFFD+|\uFFFD+$/g, '');
  const first = longest(secrets, (secret) => overlap(secret, part));
  const rest = first === 0 ? part : `[secret]${part.slice(first)}`;
  const last = longest(secrets, (secret) => overlap(rest, secret));
  return last === 0 ? rest : `${rest.slice(0, -last)}[secret]`;
};

const longest = (secrets: readonly string[], halfOf: (secret: string) => number): number =>
  secrets.reduce((so, secret) => Math.max(so, halfOf(secret)), 0);

/**
 * How many of the last characters of `left` are the first ones of `right`, at most; 0 for few. Time grows no more than
 * length does (Knuth, Morris, Pratt): an application may write what it likes.
 */
const overlap = (left: string, right: string): number => {
  const most = Math.min(left.length, right.length);
  const [end, begin] = [left.slice(left.length - most), right.slice(0, most)];
  if (most < SECRET_CHARS_MIN || !end.includes(begin.slice(0, SECRET_CHARS_MIN))) return 0;
  const borders = new Int32Array(most);
  /** With so many of the first ones matched, how many are when the next character is `code`. */
  const step = (matched: number, code: number): number => {
    let so = matched;
    while (so > 0 && (so === most || begin.charCodeAt(so) !== code)) so = borders[so - 1]!;
    return begin.charCodeAt(so) === code ? so + 1 : so;
  };
  for (let at = 1; at < most; at += 1) borders[at] = step(borders[at - 1]!, begin.charCodeAt(at));
  let matched = 0;
  for (let at = 0; at < most; at += 1) matched = step(matched, end.charCodeAt(at));
  return matched < SECRET_CHARS_MIN ? 0 : matched;
};
