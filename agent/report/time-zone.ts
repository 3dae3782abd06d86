/**
 * Where this device is, by its clock's settings: an IANA name, or nothing. A rule in POSIX form
 * (`CET-1CEST,M3.5.0,M10.5.0/3`) names no zone; UTC is said only where it is set. `Intl` says UTC for what it does not
 * know, and takes megabytes for an answer: asked only where there is no tree of zones.
 */
import { type Dirent, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { dirname, isAbsolute, join, resolve } from 'node:path';

/** Where the settings are, each as the first C library to look there has it. */
export type ZonePlaces = { timezone: string; tz: string; zoneinfo: readonly string[] };

const PLACES: ZonePlaces = {
  timezone: '/etc/timezone',
  tz: '/etc/TZ',
  zoneinfo: ['/usr/share/zoneinfo', '/usr/lib/zoneinfo', '/share/zoneinfo', '/etc/zoneinfo'],
};

const NAME = /^[A-Za-z][A-Za-z0-9_+-]*(\/[A-Za-z0-9_+-]+){0,3}$/;
/** In the tree for the C library's own use, and no zones. */
const NO_ZONES = new Set(['Factory', 'localtime', 'posixrules']);
/** Of files that are equal: the names that people know come first. */
const AREAS = /^(Africa|America|Antarctica|Asia|Atlantic|Australia|Europe|Indian|Pacific|UTC$)/;
const LINKS_MAX = 16;
const SETTING_BYTES_MAX = 256;
const ZONE_BYTES_MAX = 64 * 1024;
const ENTRIES_MAX = 5_000;

/**
 * Undefined where nothing names a zone. `env`: the agent's, whose `TZ` counts before everything else, also where it
 * names no zone.
 */
export const localTimeZone = (
  env: Record<string, string | undefined>,
  localtime = '/etc/localtime',
  places: ZonePlaces = PLACES,
): string | undefined => {
  const zoneinfo = env['TZDIR'] === undefined || env['TZDIR'] === '' ? places.zoneinfo : [env['TZDIR']];
  const at = { ...places, zoneinfo };
  if (env['TZ'] !== undefined) return zoneOfSetting(env['TZ'], at);
  const [file, named, set] = [zoneOfFile(localtime, at), line(at.timezone), line(at.tz)];
  // A copied file is equal to several zones often; where one of them is named as well, it is that one.
  if (file.kind === 'linked') return file.zone;
  const known = named === undefined ? undefined : zoneNamed(named, at);
  if (file.kind === 'copied')
    return known !== undefined && file.zones.includes(known) ? known : file.zones.length === 0 ? known : file.zones[0];
  return known ?? (set === undefined ? undefined : zoneOfSetting(set, at));
};

/** As `TZ` has it: a name, a file, or a rule. Empty is UTC. */
const zoneOfSetting = (text: string, at: ZonePlaces): string | undefined => {
  const set = text.replace(/^:/, '');
  if (set === '') return 'UTC';
  if (!isAbsolute(set)) return zoneNamed(set, at);
  const file = zoneOfFile(set, at);
  return file.kind === 'linked' ? file.zone : file.kind === 'copied' ? file.zones[0] : undefined;
};

/** Without `posix/` and `right/`, which are about leap seconds. */
const zoneNamed = (text: string, { zoneinfo }: ZonePlaces): string | undefined => {
  const name = text.replace(/^(posix|right)\//, '');
  if (!NAME.test(name) || NO_ZONES.has(name)) return undefined;
  const trees = zoneinfo.filter((tree) => isFolder(tree));
  if (trees.length === 0) return isKnownToIntl(name) ? name : undefined;
  return trees.some((tree) => read(join(tree, name), ZONE_BYTES_MAX)?.subarray(0, 4).toString() === 'TZif')
    ? name
    : undefined;
};

/** Which knows short names too that are no zones (`PST`), and does not mind upper and lower case. */
const isKnownToIntl = (name: string): boolean => {
  try {
    if (!/^UTC$|^[A-Z]\w+\/[A-Z]/.test(name)) return false;
    return new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions().timeZone !== '';
  } catch {
    return false;
  }
};

type ZoneFile = { kind: 'linked'; zone: string } | { kind: 'copied'; zones: string[] } | { kind: 'none' };

/** By where it leads to, however many links there are on the way; or by what it holds. */
const zoneOfFile = (file: string, at: ZonePlaces): ZoneFile => {
  let place = file;
  for (let links = 0; links < LINKS_MAX; links += 1) {
    const zone = zoneOfPath(place, at);
    if (zone !== undefined) return { kind: 'linked', zone };
    const next = linkOf(place);
    if (next === undefined) break;
    place = resolve(dirname(place), next);
  }
  const bytes = read(place, ZONE_BYTES_MAX);
  return bytes?.subarray(0, 4).toString() === 'TZif'
    ? { kind: 'copied', zones: zonesEqualTo(bytes, at) }
    : { kind: 'none' };
};

const zoneOfPath = (path: string, at: ZonePlaces): string | undefined => {
  for (const tree of at.zoneinfo) if (path.startsWith(`${tree}/`)) return zoneNamed(path.slice(tree.length + 1), at);
  const [, name] = /\/zoneinfo\/(.+)$/.exec(path) ?? [];
  return name === undefined ? undefined : zoneNamed(name, at);
};

let compared: { key: string; zones: string[] } | undefined;

/** The whole tree is looked at once for a copied file: asked again, the same bytes have the same answer. */
const zonesEqualTo = (bytes: Buffer, { zoneinfo }: ZonePlaces): string[] => {
  const key = `${zoneinfo.join(':')} ${bytes.toString('latin1')}`;
  if (compared?.key === key) return compared.zones;
  const tree = zoneinfo.find((one) => isFolder(one));
  const zones = tree === undefined ? [] : namesIn(tree).filter((name) => isEqual(join(tree, name), bytes));
  const rank = (name: string): number => (AREAS.test(name) ? 0 : 1);
  zones.sort((one, two) => rank(one) - rank(two) || (one < two ? -1 : 1));
  compared = { key, zones };
  return zones;
};

const namesIn = (tree: string): string[] => {
  const names: string[] = [];
  const folders = [''];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    for (const entry of entriesOf(join(tree, folder))) {
      const name = folder === '' ? entry.name : `${folder}/${entry.name}`;
      if (names.length + folders.length >= ENTRIES_MAX) return names;
      if (!NAME.test(name) || NO_ZONES.has(name) || name === 'posix' || name === 'right') continue;
      if (entry.isDirectory()) folders.push(name);
      else names.push(name);
    }
  }
  return names;
};

const isEqual = (file: string, bytes: Buffer): boolean => {
  try {
    return statSync(file).size === bytes.length && readFileSync(file).equals(bytes);
  } catch {
    return false;
  }
};
const entriesOf = (folder: string): Dirent[] => {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch {
    return [];
  }
};
const isFolder = (path: string): boolean => {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
};
const linkOf = (file: string): string | undefined => {
  try {
    return readlinkSync(file);
  } catch {
    return undefined; // No link, or nothing at all.
  }
};
const read = (file: string, bytesMax: number): Buffer | undefined => {
  try {
    const about = statSync(file);
    return about.isFile() && about.size <= bytesMax ? readFileSync(file) : undefined;
  } catch {
    return undefined;
  }
};
/** The first line that says something. */
const line = (file: string): string | undefined =>
  read(file, SETTING_BYTES_MAX)
    ?.toString('utf8')
    .split('\n')
    .map((text) => text.trim())
    .find((text) => text !== '' && !text.startsWith('#'));
