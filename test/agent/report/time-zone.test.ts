import { copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { localTimeZone } from '#agent/report/time-zone.ts';

const ZONEINFO = '/usr/share/zoneinfo';

/** A root folder with a tree of some zones, as they are on a device. */
const device = async (
  settings: { localtime?: { link: string } | { copyOf: string }; timezone?: string; tz?: string } = {},
  zones = ['Europe/Berlin', 'Europe/Paris', 'Asia/Tokyo', 'America/New_York', 'EST5EDT', 'UTC', 'Etc/UTC', 'GMT0'],
) => {
  const root = await mkdtemp(join(tmpdir(), 'sluice-zone-'));
  onTestFinished(() => rm(root, { recursive: true }));
  const at = (path: string): string => join(root, path);
  await mkdir(at('etc'));
  for (const zone of zones) {
    await mkdir(dirname(at(`usr/share/zoneinfo/${zone}`)), { recursive: true });
    await copyFile(join(ZONEINFO, zone), at(`usr/share/zoneinfo/${zone}`));
  }
  const { localtime, timezone, tz } = settings;
  if (localtime !== undefined && 'link' in localtime) await symlink(localtime.link, at('etc/localtime'));
  if (localtime !== undefined && 'copyOf' in localtime)
    await copyFile(join(ZONEINFO, localtime.copyOf), at('etc/localtime'));
  if (timezone !== undefined) await writeFile(at('etc/timezone'), timezone);
  if (tz !== undefined) await writeFile(at('etc/TZ'), tz);
  const places = { timezone: at('etc/timezone'), tz: at('etc/TZ'), zoneinfo: [at('usr/share/zoneinfo')] };
  return { at, zoneIn: (env: Record<string, string>) => localTimeZone(env, at('etc/localtime'), places) };
};

test('a rule in POSIX form, and nonsense, name no zone, whatever /etc/localtime says: the policy decides then', async () => {
  const { zoneIn } = await device({ localtime: { link: '../usr/share/zoneinfo/Asia/Tokyo' }, timezone: 'Asia/Tokyo' });
  for (const rule of [
    'CET-1CEST,M3.5.0,M10.5.0/3',
    'EST5EDT,M3.2.0,M11.1.0',
    '<+0330>-3:30',
    'UTC0',
    'EST5',
    ':EST5',
    'PST',
    'Factory',
    'Mars/Olympus',
    'europe/berlin',
    '../../etc/passwd',
    '/nowhere/localtime',
    '   ',
    'a'.repeat(10_000),
  ])
    expect([rule, zoneIn({ TZ: rule })]).toEqual([rule, undefined]);
  expect(zoneIn({})).toBe('Asia/Tokyo');
});

test('a zone is known by its name in every way that TZ may give it', async () => {
  const { at, zoneIn } = await device({ localtime: { link: '../usr/share/zoneinfo/Asia/Tokyo' } });
  for (const [set, zone] of [
    ['Europe/Berlin', 'Europe/Berlin'],
    [':Europe/Berlin', 'Europe/Berlin'],
    ['posix/Europe/Berlin', 'Europe/Berlin'],
    [':right/Europe/Berlin', 'Europe/Berlin'],
    [at('usr/share/zoneinfo/Europe/Berlin'), 'Europe/Berlin'],
    [`:${at('usr/share/zoneinfo/posix/Europe/Paris')}`, 'Europe/Paris'],
    ['/usr/share/zoneinfo/Europe/Berlin', 'Europe/Berlin'],
    [`:${at('etc/localtime')}`, 'Asia/Tokyo'],
    ['EST5EDT', 'EST5EDT'],
    ['GMT0', 'GMT0'],
    ['UTC', 'UTC'],
    ['', 'UTC'],
    [':', 'UTC'],
  ] as const)
    expect([set, zoneIn({ TZ: set })]).toEqual([set, zone]);
});

test('/etc/localtime is followed through every link, also one outside of the tree', async () => {
  const { at, zoneIn } = await device({ localtime: { link: '../data/localtime' } });
  await mkdir(at('data'));
  await symlink('../etc/zone', at('data/localtime'));
  await symlink(at('usr/share/zoneinfo/Europe/Paris'), at('etc/zone'));
  expect(zoneIn({})).toBe('Europe/Paris');
  const loop = await device({ localtime: { link: 'localtime' } });
  expect(loop.zoneIn({})).toBeUndefined();
});

test('a copied /etc/localtime is known by what it holds, and by /etc/timezone where several are equal', async () => {
  const berlin = await device({ localtime: { copyOf: 'Europe/Berlin' }, timezone: 'Asia/Tokyo\n' });
  expect(berlin.zoneIn({})).toBe('Europe/Berlin');
  const named = await device({ localtime: { copyOf: 'UTC' }, timezone: '# set by hand\nEtc/UTC\n' });
  expect(named.zoneIn({})).toBe('Etc/UTC');
  expect((await device({ localtime: { copyOf: 'UTC' } })).zoneIn({})).toBe('UTC');
  // Of another release of the tables: then the name is all there is.
  const older = await device({ localtime: { copyOf: 'Europe/Rome' }, timezone: 'Europe/Berlin' });
  expect(older.zoneIn({})).toBe('Europe/Berlin');
});

test('without /etc/localtime its neighbours count, and where nothing is set there is no zone', async () => {
  expect((await device({ timezone: 'Europe/Berlin\n' })).zoneIn({})).toBe('Europe/Berlin');
  expect((await device({ tz: 'Europe/Berlin\n' })).zoneIn({})).toBe('Europe/Berlin');
  expect((await device({ tz: 'CET-1CEST,M3.5.0,M10.5.0/3\n' })).zoneIn({})).toBeUndefined();
  expect((await device({ timezone: 'Mars/Olympus\n' })).zoneIn({})).toBeUndefined();
  expect((await device()).zoneIn({})).toBeUndefined();
});

test('on a device without a tree of zones a name counts that the tables of Node know', async () => {
  const { zoneIn } = await device({}, []);
  expect(zoneIn({ TZ: 'Europe/Berlin' })).toBe('Europe/Berlin');
  for (const none of ['Mars/Olympus', 'PST', 'EST5', 'CET-1CEST'])
    expect([none, zoneIn({ TZ: none })]).toEqual([none, undefined]);
});

test('every zone of this machine is one that the server knows', () => {
  for (const name of ['Europe/Berlin', 'EST5EDT', 'Etc/GMT+5', 'America/Argentina/Buenos_Aires', 'GMT-0', 'W-SU'])
    expect(() => new Intl.DateTimeFormat('en', { timeZone: localTimeZone({ TZ: name }) })).not.toThrow();
  for (const name of ['Factory', 'localtime', 'posixrules']) expect(localTimeZone({ TZ: name })).toBeUndefined();
});
