import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { beforeEach, expect, onTestFinished, test } from 'vitest';
import { openApplicationFiles } from '#agent/application/application-files.ts';
import { runCommand } from '#agent/application/command.ts';
import { keepLastOutput } from '#agent/application/last-output.ts';
import { redact } from '#agent/application/redact.ts';
import { keepRecentLines } from '#agent/report/recent-lines.ts';

const SECRET = 'correct-horse-battery-staple';
let dir: string;
let secrets: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-secrets-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  secrets = join(dir, 'secrets');
  await mkdir(secrets);
});

const open = () =>
  openApplicationFiles({ dataDir: dir, application: { stopMs: 1, limits: {} } }, null, pino({ level: 'silent' }));

test('secrets are found in folders, and where links lead', async () => {
  await mkdir(join(secrets, '2026'));
  await writeFile(join(secrets, '2026', 'key'), `${SECRET}\nsecond line\n`);
  await symlink('2026', join(secrets, 'now'));
  await writeFile(join(dir, 'elsewhere'), 'outside-of-the-folder');
  await symlink('../elsewhere', join(secrets, 'linked'));
  const files = await open();
  expect(await files.withoutSecrets(`${SECRET}, second line, outside-of-the-folder.`)).toBe(
    '[secret], [secret], [secret].',
  );
  expect(await files.environment()).toEqual({ ok: true, values: { SLUICE_SECRETS: secrets } });
});

test.for<[string, () => unknown, RegExp]>([
  ['too large', () => writeFile(join(secrets, 'large'), 'x'.repeat(16_385)), /large has more than 16384 bytes/],
  [
    'one of too many',
    () => Promise.all(Array.from({ length: 65 }, (_, index) => writeFile(join(secrets, `${index}`), SECRET))),
    /has more than 64 files/,
  ],
  [
    'one of too long ones',
    () =>
      Promise.all(Array.from({ length: 9 }, (_, index) => writeFile(join(secrets, `${index}`), 'x'.repeat(16_000)))),
    /has more than 131072 bytes/,
  ],
  ['a pipe', () => execFileSync('mkfifo', [join(secrets, 'pipe')]), /pipe cannot be read \(not a file\)/],
  ['a link that leads nowhere', () => symlink('nowhere', join(secrets, 'link')), /link cannot be read \(ENOENT\)/],
  ['a link in a circle', () => symlink('.', join(secrets, 'circle')), /folders deep/],
])(
  'a secret that is %s cannot be kept out of logs: they stay on the device, and the application runs',
  async ([, make, why]) => {
    await writeFile(join(secrets, 'good'), SECRET);
    await make();
    const files = await open();
    const left = await files.withoutSecrets('whatever it says');
    expect(left).not.toContain('whatever');
    expect(left).toMatch(why);
    expect(await files.environment()).toEqual({ ok: true, values: { SLUICE_SECRETS: secrets } });
  },
);

test('secrets on a file system that is only read are as they are', async () => {
  // Whose modes no one changes.
  const secretsDir = '/proc/sys/kernel/random';
  const application = { stopMs: 1, limits: {}, secretsDir };
  const files = await openApplicationFiles({ dataDir: dir, application }, null, pino({ level: 'silent' }));
  expect(await files.environment()).toEqual({ ok: true, values: { SLUICE_SECRETS: secretsDir } });
});

test('a pipe in place of the environment file is refused, not waited for', async () => {
  execFileSync('mkfifo', [join(dir, 'application.env')]);
  expect(await (await open()).environment()).toMatchObject({
    ok: false,
    message: expect.stringContaining('not a file'),
  });
});

test('how secrets and texts are made does not hold the agent up', () => {
  const like = (length: number): string => `${'a'.repeat(length)}b${'a'.repeat(length)}`;
  const many = Array.from({ length: 1_000 }, (_, index) => `secret-${index}`);
  // Character by character from each place on it would be thousands of millions of them.
  const left = redact(`…${'a'.repeat(24_000)}…`, [like(4_000), like(5_000), ...many]);
  expect([left.length, left.slice(0, 10), left.slice(-10)]).toEqual([
    2 + 24_000 - 2 * 5_000 + 2 * '[secret]'.length,
    '…[secret]a',
    'a[secret]…',
  ]);
  expect(redact(`…${'cret-77 …se'.repeat(200)}`, many)).toContain('…');
});

test('a half is found as far as it goes', () => {
  expect(redact('…abcabcabd-and', ['xyz-abcabcabcabd'])).toBe('…[secret]-and');
  expect(redact('and-abcabcab…', ['abcabcabcab-xyz'])).toBe('and-[secret]…');
  expect(redact('…abcab-and-abcab…', ['abcab-xyz-abcab'])).toBe('…abcab-and-abcab…');
});

test('half a secret does not come through where text was cut', async () => {
  // The last bytes of a long line of the application's.
  const last = keepLastOutput(Buffer.from(`${'x'.repeat(500)}${SECRET}${'y'.repeat(100)}`)).last(100 + 14);
  expect(last).toBe(`…battery-staple${'y'.repeat(100)}`);
  expect(redact(last, [SECRET])).toBe(`…[secret]${'y'.repeat(100)}`);
  // A line of the agent's own that was too long.
  const recent = keepRecentLines(10_000);
  recent.add(`${'x'.repeat(986)}${SECRET} and more`);
  recent.add('next');
  expect(redact(recent.last(), [SECRET])).toBe(`${'x'.repeat(986)}[secret]…\nnext\n`);
  // What a hook says, in the middle of a sentence.
  const print = `printf %s '${SECRET}${'z'.repeat(4_082)}'`;
  const ran = await runCommand({ command: ['sh', '-c', print], folder: dir, timeoutMs: 60_000 });
  expect(redact(`the hook says: ${ran.output}.`, [SECRET])).toBe(`the hook says: …[secret]${'z'.repeat(4_082)}.`);
});
