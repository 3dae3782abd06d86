/** Where this device is, by its clock's settings. */
import { readlinkSync } from 'node:fs';

const NAME = /^[A-Za-z][A-Za-z0-9_+-]*(\/[A-Za-z0-9_+-]+){0,3}$/;

/**
 * The IANA name, such as `Europe/Paris`: from `TZ`, or where `/etc/localtime` leads to. Only when neither says, `Intl` is asked, which
 * reads several megabytes of tables into memory for the answer.
 */
export const localTimeZone = (env: Record<string, string | undefined>, localtime = '/etc/localtime'): string => {
  const set = env['TZ']?.replace(/^:/, '') ?? '';
  if (NAME.test(set)) return set;
  const [, linked] = /\/zoneinfo\/(?:posix\/|right\/)?(.+)$/.exec(linkOf(localtime)) ?? [];
  if (set === '' && linked !== undefined && NAME.test(linked)) return linked;
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
};

const linkOf = (file: string): string => {
  try {
    return readlinkSync(file);
  } catch {
    return ''; // No link, or nothing at all.
  }
};
