/** Keeps a device's secrets out of what leaves it: logs of applications, messages of checks and hooks. */

/** Shorter ones are words like "on", whose removal would hurt more than help. */
const SECRET_CHARS_MIN = 6;

/** Every occurrence of a secret becomes `[secret]`; longer secrets first, since one may be part of another. */
export const redact = (text: string, secrets: readonly string[]): string => {
  const worth = secrets.filter((secret) => secret.length >= SECRET_CHARS_MIN).sort((a, b) => b.length - a.length);
  return worth.reduce((so, secret) => so.replaceAll(secret, '[secret]'), text);
};
