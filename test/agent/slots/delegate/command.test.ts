/**
 * The protocol of docs/delegate.md against the script of docs/examples, and against installers that do not keep to it.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { progressOf } from '#agent/slots/delegate/run-installer.ts';
import { EXIT_CODES, FAILURES, parseTold, VERBS } from '#agent/slots/delegate/verbs.ts';
import { install, REFUSED, viewOf } from '../slot-pair.ts';
import { mcuPair } from './mcu.ts';

const TRIAL = { tries: 2, deployment: 'd1' };
const OK = { ok: true };

/**
 * Of this test alone, beside whichever others run on the machine: seconds to sleep, which are told apart in the table
 * of processes.
 */
const napOf = (number: number): string => `${86_400 + number}.${process.pid}`;
const runsStill = async (...naps: string[]): Promise<boolean> => {
  const pids = (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry));
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')));
  return lines.some((line) => line.split('\0').some((word) => naps.includes(word)));
};

test('a target as it left the factory runs something of which nothing is known', async () => {
  const slots = await (await mcuPair()).open();
  const unknown = { state: 'unbootable' };
  expect(await viewOf(slots)).toEqual({ active: 'a', trial: null, slots: { a: unknown, b: unknown } });
  expect(await slots.running()).toEqual({ slot: 'a', trial: false });
  expect(await slots.boot()).toEqual({ booted: 'a', trial: false });
});

test('an artifact goes to the installer as it was fetched, is booted on trial, and committed', async () => {
  const pair = await mcuPair();
  const slots = await pair.open();
  const release = await pair.release('1.1.0');
  await install(slots, 'b', release);
  expect(await slots.activate('b', TRIAL)).toEqual(OK);
  expect((await viewOf(slots)).trial).toEqual({ slot: 'b', triesLeft: 2, deployment: 'd1' });
  expect(await slots.boot()).toEqual({ booted: 'b', trial: true });
  expect(await slots.running()).toEqual({ slot: 'b', trial: true });
  expect((await viewOf(slots)).trial).toEqual({ slot: 'b', triesLeft: 1, deployment: 'd1' });
  // A restart of the agent is none of the target: no try is used.
  expect(await (await pair.open()).boot()).toEqual({ booted: 'b', trial: true });
  expect(await slots.commit()).toEqual(OK);
  expect(await pair.asked()).toEqual(['prepare b', 'install b', 'verify b', 'activate b', 'boot b', 'commit b']);
  const running = { product: 'sensor', version: '1.1.0', manifest: release.digest, slot: 'b' };
  expect(await viewOf(slots)).toMatchObject({
    active: 'b',
    trial: null,
    slots: { b: { state: 'bootable', running, securityCounter: 3 } },
  });
  expect(await readFile(join(pair.dir, 'mcu/bank-b'))).toEqual(await readFile(release.fetched[0]!.file));
});

test('what is in vain is refused before the installer is asked', async () => {
  const pair = await mcuPair();
  const slots = await pair.open();
  const { manifest } = await pair.release('1.1.0');
  const [artifact] = manifest.artifacts;
  const other = { ...artifact!, install: { kind: 'delegate' as const, handler: 'another' as never } };
  const foreign = { ...manifest, compatible: 'x' as never };
  expect(await slots.prepare('b', foreign)).toMatchObject({ ok: false, code: 'INCOMPATIBLE_HARDWARE' });
  expect(await slots.prepare('b', { ...manifest, artifacts: [other] })).toMatchObject(REFUSED);
  expect(await slots.prepare('a', manifest)).toMatchObject(REFUSED);
  const empty = { ...manifest, artifacts: [{ ...artifact!, bytes: 0 }] };
  expect(await slots.prepare('b', empty)).toMatchObject({ ...REFUSED, message: expect.stringContaining('no bytes') });
  expect(await pair.asked()).toEqual([]);
});

describe('an installer that does not do as it is told', () => {
  test('one that proves nothing of what its slots hold gets no further than the install', async () => {
    const pair = await mcuPair();
    await pair.before('verify', 'exit 64');
    await pair.before('inspect', 'exit 64');
    const slots = await pair.open();
    const { manifest, digest, fetched } = await pair.release('1.1.0');
    expect(await slots.prepare('b', manifest)).toEqual(OK);
    expect(await slots.write('b', manifest, digest, fetched)).toEqual(OK);
    const unproven = { ok: false, code: 'WRITE_VERIFY', message: expect.stringContaining('nothing proves') };
    expect(await slots.verify('b')).toMatchObject(unproven);
    expect(await slots.activate('b', TRIAL)).toMatchObject({ ok: false });
  });

  test('one that hangs is ended with its children, at the limit of its verb', async () => {
    const pair = await mcuPair({ installMs: 400 });
    const slots = await pair.open();
    const release = await pair.release('1.1.0');
    await slots.prepare('b', release.manifest);
    const naps = [napOf(1), napOf(2)] as const;
    await pair.before('install', `setsid sleep ${naps[0]} & sleep ${naps[1]}`);
    expect(await slots.write('b', release.manifest, release.digest, release.fetched)).toMatchObject({
      ok: false,
      code: 'WRITE_FAILED',
      message: 'install: it did not end within 400 ms',
    });
    expect(await runsStill(...naps)).toBe(false);
  });

  test('one that is called off is ended too', async () => {
    const pair = await mcuPair();
    const slots = await pair.open();
    const release = await pair.release('1.1.0');
    await slots.prepare('b', release.manifest);
    const nap = napOf(3);
    await pair.before('install', `sleep ${nap}`);
    const stop = new AbortController();
    const writing = slots.write('b', release.manifest, release.digest, release.fetched, stop.signal);
    await expect.poll(() => runsStill(nap)).toBe(true);
    // What is known does not wait for it.
    expect(await slots.running()).toEqual({ slot: 'a', trial: false });
    stop.abort();
    expect(await writing).toMatchObject({ ok: false, message: 'install: stopped' });
    expect(await runsStill(nap)).toBe(false);
  });

  test('75 is asked again until it can, or until the limit', async () => {
    const pair = await mcuPair();
    const slots = await pair.open();
    await pair.before('prepare', 'if [ ! -e "$MCU.once" ]; then touch "$MCU.once"; exit 75; fi');
    expect(await slots.prepare('b')).toEqual(OK);
    expect(await pair.asked()).toEqual(['prepare b', 'prepare b']);
  });

  test('75 for too long is a failure, with what it said', async () => {
    const pair = await mcuPair({ laterMs: 50 });
    const slots = await pair.open();
    await pair.before('prepare', 'echo the line is taken >&2; exit 75');
    const refused = { ...REFUSED, message: 'prepare: it ended with exit code 75: the line is taken' };
    expect(await slots.prepare('b')).toEqual(refused);
  });

  test.each([
    ['garbage', 'echo "Welcome to the MCU 3000"; exit 0'],
    ['another form', `echo '{"running": "c"}'; exit 0`],
    ['nothing', 'exit 0'],
    ['too much', 'head -c 100000 /dev/zero | tr "\\0" " "; echo "{}"; exit 0'],
    ['an endless answer', 'yes'],
    ['a failure', 'exit 1'],
  ])('where inspect answers %s nothing is changed', async (_name, lines) => {
    const pair = await mcuPair();
    const slots = await pair.open();
    await pair.before('inspect', lines);
    expect(await slots.inspect()).toMatchObject(REFUSED);
    expect(await slots.prepare('b')).toMatchObject(REFUSED);
    expect(await slots.boot()).toMatchObject({ booted: null });
    expect(await slots.running()).toBeNull();
    expect(await pair.asked()).toEqual([]);
  });

  test('one that says it booted, and did not, is not believed', async () => {
    const pair = await mcuPair();
    const slots = await pair.open();
    await install(slots, 'b', await pair.release('1.1.0'));
    await slots.activate('b', TRIAL);
    await pair.before('boot', 'exit 0');
    expect(await slots.boot()).toEqual({ booted: 'a', trial: false });
  });

  test('a target that went back by itself is not committed', async () => {
    const pair = await mcuPair();
    const slots = await pair.open();
    await install(slots, 'b', await pair.release('1.1.0'));
    await slots.activate('b', TRIAL);
    await slots.boot();
    await pair.put('running', 'a');
    expect(await slots.commit()).toMatchObject({ ...REFUSED, message: 'slot b is on trial, but slot a runs' });
  });
});

test('an installer that a killed agent has left running is ended before another begins', async () => {
  const pair = await mcuPair();
  const slots = await pair.open();
  const release = await pair.release('1.1.0');
  await slots.prepare('b', release.manifest);
  const nap = napOf(4);
  await pair.before('install', `setsid sleep ${nap}`);
  const orphaned = slots.write('b', release.manifest, release.digest, release.fetched);
  await expect.poll(() => runsStill(nap)).toBe(true);
  await pair.open();
  expect(await runsStill(nap)).toBe(false);
  await orphaned;
});

test('lines of progress are read, in both forms', () => {
  expect(['progress 42', ' 80% Updating slots', 'progress 101', 'progress', '42'].map(progressOf)).toEqual([
    42,
    80,
    undefined,
    undefined,
    undefined,
  ]);
});

test('an answer may come after lines of progress', () => {
  expect(parseTold('progress 1\n{ "running": "b",\n "trial": null }\n')).toEqual({ running: 'b', trial: null });
  expect(parseTold('{ "running": ')).toBeUndefined();
});

test('docs/delegate.md has every verb and every exit code as they are', async () => {
  const doc = await readFile(join(import.meta.dirname, '../../../../docs/delegate.md'), 'utf8');
  const cell = (first: string): string | undefined => doc.split('\n').find((line) => line.startsWith(`| ${first} |`));
  const verbs = VERBS.filter((verb) => cell(`\`${verb}\``)?.endsWith(`| \`${FAILURES[verb]}\` |`) !== true);
  const words: Record<string, string> = { later: '| later', 'unknown-verb': 'not known' };
  const codes = Object.entries(EXIT_CODES).filter(
    ([code, meaning]) => cell(code)?.includes(words[meaning] ?? `\`${meaning}\``) !== true,
  );
  expect([verbs, codes]).toEqual([[], []]);
});
