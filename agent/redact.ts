/** Keeps a device's secrets out of what leaves it: logs of applications, messages of checks and hooks. */

/** Shorter ones are words like "on", whose removal would hurt more than help. */
const SECRET_CHARS_MIN = 6;

/** Stands where text was cut before it was redacted: what is beside it may be half a secret. */
export const CUT = '…';

/** Every occurrence of a secret becomes `[secret]`; longer secrets first, since one may be part of another. So do halves of them where the text was cut. */
export const redact = (text: string, secrets: readonly string[]): string => {
  const worth = secrets.filter((secret) => secret.length >= SECRET_CHARS_MIN).sort((a, b) => b.length - a.length);
  const whole = worth.reduce((so, secret) => so.replaceAll(secret, '[secret]'), text);
  return whole
    .split(CUT)
    .map((part) => withoutHalves(part, worth))
    .join(CUT);
};

const withoutHalves = (cut: string, secrets: readonly string[]): string => {
  // Of a character that was cut itself.
  const part = cut.replace(/^\uFFFD+|\uFFFD+$/g, '');
  const first = Math.max(0, ...secrets.map((secret) => halfAt(part, secret, 'start')));
  const rest = first === 0 ? part : `[secret]${part.slice(first)}`;
  const last = Math.max(0, ...secrets.map((secret) => halfAt(rest, secret, 'end')));
  return last === 0 ? rest : `${rest.slice(0, -last)}[secret]`;
};

/** How many of the last characters of a secret the text starts with, or of the first ones it ends with; 0 for few. */
const halfAt = (text: string, secret: string, where: 'start' | 'end'): number => {
  for (let chars = Math.min(secret.length - 1, text.length); chars >= SECRET_CHARS_MIN; chars -= 1) {
    const isHalf = where === 'start' ? text.startsWith(secret.slice(-chars)) : text.endsWith(secret.slice(0, chars));
    if (isHalf) return chars;
  }
  return 0;
};
