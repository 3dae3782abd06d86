import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { localTimeZone } from '#agent/time-zone.ts';

const link = async (to: string): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-zone-'));
  onTestFinished(() => rm(dir, { recursive: true }));
  await symlink(to, join(dir, 'localtime'));
  return join(dir, 'localtime');
};

test('the time zone is what TZ says, or else where /etc/localtime leads to', async () => {
  const lyon = await link('../usr/share/zoneinfo/Europe/Paris');
  expect(localTimeZone({}, lyon)).toBe('Europe/Paris');
  expect(localTimeZone({ TZ: ':America/Argentina/Buenos_Aires' }, lyon)).toBe('America/Argentina/Buenos_Aires');
  expect(localTimeZone({ TZ: 'UTC' }, lyon)).toBe('UTC');
  expect(localTimeZone({}, await link('/usr/share/zoneinfo/right/Asia/Kolkata'))).toBe('Asia/Kolkata');
});

test('where neither names a zone, there is still one', async () => {
  const known = Intl.DateTimeFormat().resolvedOptions().timeZone;
  expect(localTimeZone({}, '/nowhere/localtime')).toBe(known);
  expect(localTimeZone({}, await link('/etc/my-zone'))).toBe(known);
  // A rule in POSIX form names no zone.
  expect(localTimeZone({ TZ: 'CET-1CEST,M3.5.0,M10.5.0/3' }, await link('/usr/share/zoneinfo/Asia/Tokyo'))).toBe(known);
});
