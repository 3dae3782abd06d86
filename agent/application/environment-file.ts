/**
 * What a device adds to its application's environment: one `NAME=value` a line, in a file that updates do not touch.
 * Blank lines and lines that begin with `#` say nothing. The value is everything after the first `=`, as it stands;
 * quotes around all of it are taken away, nothing else is interpreted.
 */
import { accept, type Result, refuse } from '#shared/problems.ts';

export const ENVIRONMENT_BYTES_MAX = 64 * 1024;
const VARIABLES_MAX = 256;
const VALUE_CHARS_MAX = 16_384;
const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;

/**
 * Refuses the file as a whole, with the number of every line that is wrong and never with what it says: it may be a
 * secret.
 */
export const parseEnvironment = (text: string): Result<Record<string, string>> => {
  const values = new Map<string, string>();
  const wrong: string[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    const read = readLine(line.replace(/\r$/, ''));
    if (read === undefined) continue;
    if ('why' in read) wrong.push(`line ${index + 1} ${read.why}`);
    else if (values.has(read.name)) wrong.push(`line ${index + 1} names ${read.name} again`);
    else values.set(read.name, read.value);
  }
  if (values.size > VARIABLES_MAX) wrong.push(`there are more than ${VARIABLES_MAX} variables`);
  if (wrong.length > 0) return refuse('invalid-request', wrong.slice(0, 10).join('; '));
  return accept(Object.fromEntries(values));
};

const readLine = (line: string): { name: string; value: string } | { why: string } | undefined => {
  if (line.trim() === '' || line.trimStart().startsWith('#')) return undefined;
  const at = line.indexOf('=');
  if (at === -1) return { why: 'has no "="' };
  const name = line.slice(0, at);
  if (!NAME.test(name)) return { why: 'has a name that is none: letters, digits and "_" before the "="' };
  if (name.startsWith('SLUICE_') || name === 'PORT') return { why: `sets ${name}, which the agent sets itself` };
  const raw = line.slice(at + 1);
  // oxlint-disable-next-line no-control-regex -- they are what is meant
  if (/[\u0000-\u0008\u000a-\u001f\u007f]/.test(raw)) return { why: 'has a control character' };
  if (raw.length > VALUE_CHARS_MAX) return { why: `has more than ${VALUE_CHARS_MAX} characters` };
  const quote = raw[0];
  const quoted = (quote === '"' || quote === "'") && raw.length > 1;
  if (quoted && !raw.endsWith(quote)) return { why: 'begins with a quote and does not end with it' };
  return { name, value: quoted ? raw.slice(1, -1) : raw };
};
