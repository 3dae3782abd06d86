/**
 * The real command against a real server: what a newcomer, CI and operators do. Each test brings what it changes; all
 * find a staged release, a cohort and a device.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { type Client, openClient } from '#cli/client.ts';
import { createBundles, parseDescription } from '#cli/description.ts';
import { checkBundle, publishRelease } from '#cli/publish.ts';
import { routes } from '#shared/api.ts';
import { Id } from '#shared/ids.ts';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { signPayload } from '#shared/trust/signed.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';
import { buildSamples } from '../../firmware-samples/build.ts';
import { runSluice } from './run.ts';

const Ready = z.object({ httpUrl: z.string(), adminToken: z.string() });
let folder: string;
let server: ChildProcess;
let url: string;
let admin: Record<string, string>;
let client: Client;
let samples: Awaited<ReturnType<typeof buildSamples>>;
let signer: Signer;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sluice-cli-server-'));
  const config = join(folder, 'sluice.yaml');
  await writeFile(
    config,
    'channels: [staging, production, { name: field, requires: { checks: [e2e], approvals: 1 } }]\n',
  );
  const flags = [
    '--config',
    config,
    '--data-dir',
    join(folder, 'data'),
    '--http-port',
    '0',
    '--mqtt-port',
    '0',
    '--log-level',
    'warn',
  ];
  server = fork(join(import.meta.dirname, '../../cli/sluice.ts'), ['serve', ...flags], {
    stdio: 'ignore',
    execArgv: [],
  });
  const [message] = await Promise.race([once(server, 'message'), once(server, 'exit')]);
  const ready = Ready.parse(message);
  url = ready.httpUrl;
  admin = { SLUICE_URL: url, SLUICE_TOKEN: ready.adminToken };
  client = openClient({ url, token: ready.adminToken });
  samples = await buildSamples(join(folder, 'samples'));
  signer = signerOf(await readFile(samples.key, 'utf8'));

  await makeProduct('gateway');
  await published(filesOf('good-1.0.0'));
  await published(filesOf('good-1.1.0'));
  const call = { params: { release: 'gateway@1.1.0' }, body: { channel: Id.parse('production') } };
  await client.call(routes.releaseStage, call);
  await client.call(routes.cohortCreate, { body: { name: Id.parse('lyon'), selector: 'site=lyon' } });
  await enrol('gw-1');
  await client.call(routes.deviceAccept, { params: { device: Id.parse('gw-1') } });
});
afterAll(async () => {
  if (server.exitCode === null && server.kill('SIGTERM')) await once(server, 'exit');
  if (server.exitCode !== 0) throw new Error(`the server ended with ${server.exitCode}`);
  await rm(folder, { recursive: true, force: true });
});

const sluice = (line: string[], environment: Record<string, string> = admin, input = '') =>
  runSluice(line, { environment, input, cwd: folder });
const json = async (line: string[], environment: Record<string, string> = admin): Promise<unknown> => {
  const ran = await sluice([...line, '--json'], environment);
  expect(ran).toMatchObject({ code: 0 });
  return JSON.parse(ran.out);
};
const filesOf = (sample: string): string[] =>
  samples.samples.filter((one) => one.sample.startsWith(sample)).map(({ file }) => file);
const publish = (sample: string, ...more: string[]) => ['release', 'publish', ...filesOf(sample), ...more];

const signerOf = (pem: string): Signer => {
  const made = signerFromPem(pem);
  if (!made.ok) throw new Error(made.detail);
  return made.value;
};
const makeProduct = (name: string) =>
  client.call(routes.productCreate, { body: { name: Id.parse(name), keys: [publicKeyPem(signer.key)] } });
/** As `release publish` does it, without a process of its own. */
const published = (files: string[]) =>
  publishRelease(
    client,
    { files, signer, now: Date.now },
    { checking: checkBundle, sending: (_, send) => send(() => {}), again: () => {} },
  );
/** A release of a product of one's own. */
const release = async (product: string, version: string, changes: string[] = []): Promise<void> => {
  await writeFile(join(folder, 'app'), product);
  const artifacts = [{ name: 'app', file: 'app', path: 'app' }];
  const description = parseDescription({ product, version, compatible: 'router-1', artifacts, changes }, product);
  const bundles = await createBundles(description, { folder, out: `${folder}/bundles/` });
  await published(bundles.map(({ file }) => file));
};

/** As an agent enrols that has no token. */
const enrol = async (device: string, attributes: object = {}): Promise<void> => {
  const own = signerOf(generatePrivateKey('ed25519'));
  const signed = signPayload(own, {
    type: 'sluice/enrol/1',
    device,
    publicKey: own.key.keyval.public,
    compatible: samples.samples[0]!.compatible,
    attributes: { site: 'lyon', model: 'gw2', ...attributes },
    token: null,
    at: Date.now(),
  });
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(`${url}/device/v1/enrol`, { method: 'POST', headers, body: JSON.stringify(signed) });
  expect(answer.status).toBe(200);
};

/** It starts in an hour, and so stays as it was planned. */
const create = (...more: string[]) => [
  'rollout',
  'create',
  'gateway@1.1.0',
  '--cohort',
  'lyon',
  '--start-at',
  '+1h',
  ...more,
];

test('logging in tries the token, keeps it privately, and is then enough', async () => {
  const home = { XDG_CONFIG_HOME: join(folder, 'home') };
  const wrong = await sluice(['login', '--url', url], home, 'no-such-token\n');
  expect(wrong).toMatchObject({ code: 3, out: '' });
  const right = await sluice(['login', '--url', url], home, `${admin['SLUICE_TOKEN']}\n`);
  expect(right).toMatchObject({ code: 0, out: expect.stringContaining('as admin') });
  expect((await stat(join(home.XDG_CONFIG_HOME, 'sluice', 'login.json'))).mode & 0o777).toBe(0o600);
  expect(await sluice(['device', 'list'], home)).toMatchObject({ code: 0 });
});

test('CI publishes with a key and a token of its own, which can do nothing else', async () => {
  const product = await json(['product', 'create', 'sensor', '--key', samples.key]);
  expect(product).toMatchObject({ name: 'sensor', role: 'ci-sensor', keys: [{ keyId: expect.any(String) }] });
  expect(await json(['product', 'list'])).toEqual(expect.arrayContaining([product]));
  const { token } = z.object({ token: z.string() }).parse(await json(['operator', 'create', 'ci', '--role', 'ci']));
  const ci = { SLUICE_URL: url, SLUICE_TOKEN: token, SLUICE_SIGNING_KEY: await readFile(samples.key, 'utf8') };

  expect(await sluice(publish('hang'), admin)).toMatchObject({
    code: 2,
    err: expect.stringContaining('SLUICE_SIGNING_KEY'),
  });
  const accepted = await json(publish('hang', '--stage', 'staging'), ci);
  expect(accepted).toMatchObject({ release: 'gateway@1.3.0', progress: { state: 'staged', channels: ['staging'] } });
  // Two pipelines at once: the second signs again.
  const both = await Promise.all([sluice(publish('crash-at-start'), ci), sluice(publish('unhealthy-later'), ci)]);
  expect(both).toMatchObject([{ code: 0 }, { code: 0 }]);
  const there = ['1.2.0', '1.3.0', '1.4.0'].map((version) => expect.objectContaining({ version }));
  expect(await json(['release', 'list', '--product', 'gateway'])).toEqual(expect.arrayContaining(there));
  expect(await sluice(['operator', 'list'], ci)).toMatchObject({ code: 1, err: expect.stringContaining('may not') });

  expect(await json(['operator', 'revoke', 'ci'])).toEqual({ revoked: 'ci' });
  expect(await sluice(['release', 'list'], ci)).toMatchObject({ code: 3 });
});

test('what is signed by someone else is refused, here and by the server', async () => {
  const intruder = ['--key', samples.intruderKey];
  expect(await sluice(publish('bad-signature', ...intruder))).toMatchObject({
    code: 1,
    err: expect.stringContaining('Not signed'),
  });
  const insisting = await sluice(
    publish('bad-signature', ...intruder, '--trust', samples.key.replace('.pem', '.pub.pem')),
  );
  expect(insisting).toMatchObject({ code: 1, err: expect.stringContaining('The signature does not verify') });
  const shown = await sluice(['release', 'show', 'gateway@1.6.0']);
  expect(shown).toMatchObject({ code: 1, err: expect.stringContaining('There is no such thing') });
});

test('a release is promoted, and withdrawn', async () => {
  await makeProduct('router');
  await release('router', '1.0.0', ['RT-1']);
  await release('router', '1.1.0', ['RT-1', 'RT-7']);
  await release('router', '1.2.0');
  const staged = await json(['release', 'stage', 'router@1.1.0', '--channel', 'production']);
  expect(staged).toMatchObject({ progress: { state: 'staged', channels: ['production'] } });
  const early = await sluice(['release', 'promote', 'router@1.1.0', '--to', 'field']);
  expect(early).toMatchObject({ code: 1, err: expect.stringContaining('check e2e has not been reported') });
  const link = 'https://ci.example.com/812';
  const checked = await json(['release', 'check', 'router@1.1.0', 'e2e', 'pass', '--link', link]);
  expect(checked).toMatchObject({ checks: [{ check: 'e2e', outcome: 'pass', link, by: 'admin' }] });
  expect(await sluice(['release', 'check', 'router@1.1.0', 'e2e', 'perhaps'])).toMatchObject({ code: 2 });
  const { token } = z
    .object({ token: z.string() })
    .parse(await json(['operator', 'create', 'eve', '--role', 'operator']));
  const eve = { SLUICE_URL: url, SLUICE_TOKEN: token };
  const approved = await sluice(['release', 'approve', 'router@1.1.0', '--to', 'field', '--note', 'read it'], eve);
  expect(approved.out).toMatch(/field +eve +.+ +read it/);
  const needs = await sluice(['release', 'requirements', 'router@1.1.0']);
  expect(needs.out).toMatch(/field +met +check e2e passed .https:..ci.example.com.812./);
  expect(await json(['release', 'promote', 'router@1.1.0', '--to', 'field'])).toMatchObject({
    progress: { channels: ['production', 'field'] },
  });
  expect(await json(['change', 'show', 'RT-7'])).toMatchObject({
    releases: [{ release: 'router@1.1.0', state: 'staged', channels: ['production', 'field'] }],
    running: 0,
    devices: [],
  });
  expect((await sluice(['change', 'show', 'RT-1'])).out).toMatch(/runs on +0 of \d+ devices/);
  expect(await sluice(['change', 'show', 'RT-99'])).toMatchObject({ code: 1 });
  const diff = await sluice(['release', 'diff', 'router@1.0.0', 'router@1.1.0']);
  expect(diff.out).toMatch(/^\+ +RT-7 +/m);
  const withdrawn = await json(['release', 'withdraw', 'router@1.2.0', '--reason', 'RT-31']);
  expect(withdrawn).toMatchObject({ progress: { state: 'withdrawn', reason: 'RT-31' } });
  const table = await sluice(['release', 'list']);
  expect(table.out.split('\n')[0]).toMatch(/^RELEASE +COMPATIBLE +ACCEPTED +STATE$/);
  expect(table.out).toContain('withdrawn: RT-31');
});

test('cohorts and tokens are made, and what is wrong about them is said', async () => {
  const cohort = await json(['cohort', 'create', 'nice', '--selector', 'site=nice and model in (gw2, gw3)']);
  expect(cohort).toMatchObject({ devices: 0 });
  expect(await json(['cohort', 'list'])).toEqual(expect.arrayContaining([cohort]));
  const wrong = await sluice(['cohort', 'create', 'bad', '--selector', 'site=lyon and and']);
  expect(wrong).toMatchObject({ code: 1, err: expect.stringContaining('selector') });
  expect(await sluice(['cohort', 'create', 'both'])).toMatchObject({ code: 2 });
  const tokens = await sluice(['device', 'token', '--count', '3', '--tag', 'site=nice']);
  expect(tokens.out.trimEnd().split('\n')).toEqual(Array(3).fill(expect.stringMatching(/^sle_/)));
  expect(await sluice(['device', 'show', 'gw-99'])).toMatchObject({ code: 1 });
  expect(await json(['device', 'list', '--selector', 'site=nice'])).toEqual([]);
  const rollout = await sluice(['rollout', 'create', 'gateway@1.1.0', '--cohort', 'nobody']);
  expect(rollout).toMatchObject({ code: 1, out: '', err: expect.stringContaining('nobody') });
});

test('a device that does not act on what it is told is shown with its code', async () => {
  await enrol('gw-5', { site: 'oslo', refused: 'ROOT_EXPIRED' });
  await sluice(['device', 'accept', 'gw-5']);
  expect((await sluice(['device', 'list', '--selector', 'refused=ROOT_EXPIRED'])).out).toMatch(
    /gw-5 +offline, refuses: ROOT_EXPIRED/,
  );
  expect((await sluice(['device', 'show', 'gw-5'])).out).toMatch(/state +offline, refuses: ROOT_EXPIRED/);
  expect(await json(['device', 'show', 'gw-5'])).toMatchObject({ keySharedAt: null });
});

test('a device that came without a token is let in', async () => {
  await enrol('gw-2');
  expect(await json(['device', 'accept', 'gw-2'])).toMatchObject({ id: 'gw-2', state: 'accepted' });
});

test('windows, times, priority and activation are given on the command line, and come back in the policy', async () => {
  const window = [
    '--window',
    '0 2 * * MON-FRI for 2h in Europe/Paris',
    '--cohort-window',
    'lyon=30 3 * * * for 45m only in UTC',
  ];
  const told = [
    '--activate-at',
    '+20h',
    '--set',
    'confirm=required',
    '--priority',
    '70',
    '--follow',
    '--end-by',
    '+2d',
  ];
  expect(await json(create(...window, ...told))).toMatchObject({
    state: 'scheduled',
    cohorts: [
      {
        cohort: 'lyon',
        follow: true,
        windows: [{ cron: '30 3 * * *', durationMs: 2_700_000, timeZone: 'UTC', ofDevice: false }],
      },
    ],
    policy: {
      windows: [{ cron: '0 2 * * MON-FRI', durationMs: 7_200_000, timeZone: 'Europe/Paris', ofDevice: true }],
      activation: expect.any(Number),
      confirm: 'required',
      priority: 70,
    },
  });
  const urgent = await sluice(create('--urgent', '--activate-on-command', '--window', '0 2 * * * for 2h'));
  expect(urgent).toMatchObject({ code: 0 });
  expect(urgent.out).toMatch(/windows +"0 2 . . . for 2h in UTC"/);
  expect(urgent.out).toMatch(/activation +when told: sluice rollout activate/);
  expect(urgent.out).toMatch(/priority +90/);
  const queue = await sluice(['rollout', 'queue']);
  expect(queue.out.split('\n')[0]).toMatch(/^ROLLOUT +RELEASE +PRIORITY +STATE +STATES +WAITS FOR$/);
  expect(queue.out.split('\n').slice(1).join(' ')).toMatch(/ 90 .* 70 /);
});

test('the verdict on the decisions of a rollout comes first, and only decisions that do not hold are listed', async () => {
  const { id } = z.object({ id: z.string() }).parse(await json(create()));
  await sluice(['rollout', 'abort', id]);
  expect(await json(['rollout', 'explain', id])).toMatchObject({ items: [{ kinds: ['rollout-aborted'] }] });
  const verdict = z.record(z.string(), z.unknown()).parse(await json(['rollout', 'explain', id, '--verify']));
  expect(Object.keys(verdict)).toEqual(['rollout', 'verified', 'now', 'items', 'faults']);
  expect(verdict).toMatchObject({ verified: { holds: true, decisions: 1, wrong: 0, pruned: 0 }, items: [] });
  const told = await sluice(['rollout', 'explain', id, '--verify']);
  expect(told).toMatchObject({ code: 0, out: expect.stringMatching(/^verified +1 decision of /) });
});

test('a decision whose record someone changed is named as not verified', async () => {
  const { id } = z.object({ id: z.string() }).parse(await json(create()));
  await sluice(['rollout', 'abort', id]);
  const database = new Database(join(folder, 'data', 'sluice.db'));
  database.prepare("UPDATE decisions SET record = x'ff00ff' WHERE rollout = ?").run(id);
  database.close();
  expect(await sluice(['rollout', 'explain', id, '--verify'])).toMatchObject({
    code: 1,
    out: expect.stringMatching(/^#1 .*Its record cannot be read\.\n.*its record cannot be read/),
    err: expect.stringContaining(`1 of 1 decision of ${id} does not hold`),
  });
  const told = await sluice(['rollout', 'explain', id]);
  expect(told).toMatchObject({ code: 0, out: expect.stringContaining('Its record cannot be read.') });
});

test('what a halt does is said by name, and a start that is past is pointed out', async () => {
  const past = ['--start-at', '2001-02-03T04:05:06Z'];
  // The last of two counts.
  const planned = await sluice(create('--on-halt', 'recall', ...past, '--json'));
  expect(planned).toMatchObject({ code: 0, err: expect.stringMatching(/^warning: its start, 2001.* is past/) });
  expect(JSON.parse(planned.out)).toMatchObject({
    policy: { onHalt: 'recall' },
    notices: [expect.stringContaining('past')],
  });
  expect(await json(create())).toMatchObject({ policy: { onHalt: 'hold' }, notices: [] });
  expect(await sluice(create('--on-halt', 'run'))).toMatchObject({
    code: 2,
    err: expect.stringContaining('hold, recall'),
  });
});

test.each([
  [['--cohort-window', 'paris=0 2 * * * for 2h'], 'paris, which is no --cohort'],
  [['--cohort-window', 'lyon=nightly'], '--cohort-window'],
  [['--activate-at', '+1h', '--activate-on-command'], 'either --activate-at or --activate-on-command'],
])('%j is a wrong command line, and what is wrong is said', async (flags, why) => {
  const ran = await sluice(create(...flags));
  expect(ran).toMatchObject({ code: 2, out: '', err: expect.stringContaining(why) });
});

test.each([
  [['--window', '0 2 * * * for 2h in Mars/Base'], 'there is no time zone Mars/Base'],
  [['--end-by', '+30m'], 'must end after it starts'],
])('%j is refused by the server, and why is said', async (flags, why) => {
  const ran = await sluice(create(...flags));
  expect(ran).toMatchObject({ code: 1, out: '', err: expect.stringContaining(why) });
});

test('what cannot be activated, resumed, adopted or reconciled is said', async () => {
  const planned = z.object({ id: z.string() }).parse(await json(create()));
  expect(await sluice(['rollout', 'activate', planned.id])).toMatchObject({
    code: 1,
    err: expect.stringContaining('activate'),
  });
  const resumed = await sluice(['rollout', 'resume', planned.id, '--acknowledge-failures', 'gw-1,gw-2']);
  expect(resumed).toMatchObject({ code: 1, err: expect.stringContaining('gw-1, gw-2: no failure in rollout') });
  expect(await sluice(['rollout', 'resume', planned.id, '--acknowledge-failures', 'gw 1'])).toMatchObject({ code: 2 });
  expect(await json(['device', 'drift'])).toEqual([]);
  expect(await sluice(['device', 'adopt', 'gw-99'])).toMatchObject({ code: 1 });
});

test('the audit log is exported and holds; with one byte changed it does not', async () => {
  const withdrawn = await sluice(['release', 'withdraw', 'gateway@1.0.0', '--reason', 'pasted\u2028second']);
  expect(withdrawn).toMatchObject({ code: 0 });
  expect((await sluice(['audit', 'list', '--limit', '1000'])).out).toMatch(/gateway@1\.0\.0|gateway 1\.0\.0/);
  const file = join(folder, 'audit.ndjson');
  expect(await sluice(['audit', 'export', '--out', file])).toMatchObject({ code: 0 });
  const streamed = await sluice(['audit', 'export']);
  // The first line says when it was made; the entries are the same.
  expect(streamed.out.split('\n')[1]).toBe((await readFile(file, 'utf8')).split('\n')[1]);
  const verified = await sluice(['audit', 'verify', file, '--json'], {});
  expect(JSON.parse(verified.out)).toMatchObject({ ok: true, receipts: 0 });
  const text = await readFile(file, 'utf8');
  expect(text).toContain('lyon');
  await writeFile(file, text.replace('lyon', 'lyom'));
  expect(await sluice(['audit', 'verify', file], {})).toMatchObject({
    code: 1,
    err: expect.stringContaining('does not hold'),
  });
});

test('a second server on the same folder is told so', async () => {
  const flags = ['--data-dir', join(folder, 'data'), '--http-port', '0', '--mqtt-port', '0', '--log-level', 'silent'];
  const second = await sluice(['serve', ...flags], {});
  expect(second.code).toBe(1);
  expect(second.err).toMatch(/data|running|lock/);
});
