import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { findConnection, saveLogin } from '#cli/login-file.ts';
import { buildProgram } from '#cli/program.ts';
import { DEPLOYMENT_STATES } from '#shared/deployment.ts';
import { CohortPlan, Policy } from '#shared/policy.ts';
import { toProblem } from '#shared/problems.ts';
import { runSluice } from './run.ts';

const ROOT = join(import.meta.dirname, '..', '..');
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sluice-cli-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

type Leaf = { name: string; command: Command };
const leavesOf = (command: Command, path: string[]): Leaf[] =>
  command.commands.length === 0
    ? [{ name: [...path, command.name()].join(' '), command }]
    : command.commands.flatMap((inner) => leavesOf(inner, [...path, command.name()]));
const leaves = leavesOf(buildProgram(), []);

test('docs/cli.md has a row for every command, and for no other, each with an example of it', async () => {
  const text = await readFile(join(ROOT, 'docs/cli.md'), 'utf8');
  const rows = [...text.matchAll(/^\| `(sluice [a-z ]+)` +\| .+ \| `(.+)` +\|$/gm)];
  expect(rows.map((row) => row[1])).toEqual(leaves.map(({ name }) => name));
  expect(rows.filter(([, name, example]) => !example!.includes(name!))).toEqual([]);
});

test('every command explains itself, with examples that name it and only flags that it has', () => {
  for (const { name, command } of leaves) {
    let help = `${name}: ${command.description()}\n`;
    command.configureOutput({ writeOut: (text) => (help += text) });
    command.outputHelp();
    const [, examples = ''] = help.split('Examples:');
    const lines = [...examples.matchAll(/\$ (.+)/g)].map((match) => match[1]!);
    expect(lines.filter((line) => line.includes(name))).toEqual(lines);
    const known = command.options.flatMap((option) => [option.short, option.long]);
    const used = lines.flatMap((line) => {
      const own = line.split(/[|&]/).find((part) => part.includes(name)) ?? '';
      return [...own.matchAll(/(?<=\s)--[a-z-]+/g)].map((match) => match[0]);
    });
    expect({ name, lines: lines.length > 0, known }).toEqual({
      name,
      lines: true,
      known: expect.arrayContaining(used),
    });
  }
});

/** What documents tell people to type, in code blocks and in tables: each line as words, without what the shell does. */
const typedLines = (text: string): string[][] => {
  const blocks = [...text.matchAll(/```sh\n([\s\S]*?)```/g)].flatMap((match) => match[1]!.split('\n'));
  const cells = [...text.matchAll(/\| `((?:npx )?sluice [^`]+ [^`]+)` +\|$/gm)].map((match) => match[1]!);
  return [...blocks, ...cells].flatMap((line) =>
    [...line.matchAll(/(?:^|&& |\| |" )\s*(?:npx )?sluice ([^#|&>]+)/g)].map((match) =>
      [...match[1]!.matchAll(/'([^']*)'|"([^"]*)"|(\S+)/g)].map((word) => word[1] ?? word[2] ?? word[3]!),
    ),
  );
};

test('every command that a document tells people to type is one that there is', async () => {
  const files = [
    'README.md',
    'docs/cli.md',
    'docs/agent.md',
    'docs/operations.md',
    'docs/trust.md',
    'docs/selectors.md',
  ];
  const wrong: string[] = [];
  let parsed = 0;
  for (const file of files) {
    for (const words of typedLines(await readFile(join(ROOT, file), 'utf8'))) {
      const program = buildProgram();
      const errors: string[] = [];
      const prepare = (command: Command): void => {
        command.configureOutput({ writeErr: (text) => errors.push(text), writeOut: () => {} });
        if (command.commands.length === 0) {
          command.action(() => {
            parsed += 1;
          });
        }
        for (const inner of command.commands) prepare(inner);
      };
      prepare(program);
      try {
        program.parse(words, { from: 'user' });
      } catch {
        wrong.push(`${file}: ${words.join(' ')}: ${errors[0] ?? 'no command'}`);
      }
    }
  }
  expect(wrong).toEqual([]);
  expect(parsed).toBeGreaterThan(40);
});

test('what was typed is repeated in an error, but not at any length', async () => {
  const endless = 'x'.repeat(5_000);
  const lines = [
    ['device', 'show', endless],
    [endless],
    ['rollout', 'create', 'a@1.0.0', '--cohort', 'x', '--set', endless],
  ];
  for (const line of lines) {
    const ran = await runSluice([...line, '--token', 'x']);
    expect(ran).toMatchObject({ code: 2, out: '' });
    expect(ran.err.length).toBeLessThan(500);
  }
  expect((await runSluice(['device', 'show', endless])).err).toMatch(/x{20}\.\.\.x+' \(5002 characters\) is invalid/);
  const url = await serveAnswer(404, () => toProblem('not-found', `there is no ${endless}`));
  expect((await runSluice(['device', 'list', '--url', url, '--token', 'x'])).err).toMatch(/x{20}\.\.\.x+ \(5000 char/);
  // Of a path it is the end that says which file is meant.
  const path = `/${'folder/'.repeat(40)}gateway-1.4.0.sluice`;
  expect((await runSluice(['bundle', 'inspect', path])).err).toContain(
    'gateway-1.4.0.sluice (301 characters) can not be read',
  );
});

test('exit code 2 for a wrong command line, 0 for help', async () => {
  const codes = await Promise.all(
    [
      ['nonsense'],
      ['bundle'],
      ['rollout', 'create', 'gateway'],
      ['device', 'show', '../x'],
      ['device', 'list', '--limit', 'x'],
    ].map(async (line) => (await runSluice(line)).code),
  );
  expect(codes).toEqual([2, 2, 2, 2, 2]);
  expect(await runSluice(['rollout', '--help'])).toMatchObject({ code: 0, err: '' });
  expect(await runSluice(['--version'])).toMatchObject({ code: 0, out: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) });
});

test('exit code 3 when nobody listens, nobody is logged in, or the token is unknown', async () => {
  const closed = await serveAnswer(200, {});
  await new Promise((resolve) => server?.close(resolve));
  const nobody = await runSluice(['device', 'list', '--url', closed, '--token', 'x']);
  expect(nobody).toMatchObject({ code: 3, out: '' });
  expect(nobody.err).toMatch(/^error: Can not reach http:\/\/127\.0\.0\.1:\d+: .*ECONNREFUSED.*\n$/);
  expect(await runSluice(['device', 'list'])).toMatchObject({ code: 3, err: expect.stringContaining('sluice login') });
  const url = await serveAnswer(401, toProblem('unauthenticated', 'the token is unknown'));
  expect(await runSluice(['device', 'list', '--url', url, '--token', 'x'])).toMatchObject({ code: 3 });
});

let server: Server | undefined;
afterEach(() => void server?.close());
/** Any HTTP server, to see what an answer makes of the command; a function answers by path. */
const serveAnswer = async (status: number, body: object | string | ((path: string) => unknown)): Promise<string> => {
  server?.close();
  server = createServer((request, response) => {
    const answer: unknown = typeof body === 'function' ? body(request.url ?? '') : body;
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
  });
  await new Promise<void>((resolve) => server?.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return `http://127.0.0.1:${address !== null && typeof address === 'object' ? address.port : 0}`;
};

test('a refusal is told in words, with every wrong field, and without a stack trace', async () => {
  const problem = toProblem('invalid-request', 'look here', [{ path: 'body.name', message: 'is too\u001b[2J long' }]);
  const url = await serveAnswer(400, problem);
  const ran = await runSluice(['cohort', 'list', '--url', url, '--token', 'x']);
  expect(ran).toEqual({
    code: 1,
    out: '',
    err: 'error: The request is not of the expected form\n  look here\n  body.name: is too long\n',
  });
  const debug = await runSluice(['cohort', 'list', '--url', url, '--token', 'x'], {
    environment: { SLUICE_DEBUG: '1' },
  });
  expect(debug.err).toContain('    at ');
});

const counts = Object.fromEntries(DEPLOYMENT_STATES.map((state) => [state, 0]));
const view = {
  id: 'r1',
  release: 'gateway@1.0.0',
  channel: 'production',
  cohorts: [CohortPlan.parse({ cohort: 'all' })],
  policy: Policy.parse({}),
  createdAt: 0,
  createdBy: 'admin',
  approval: null,
  endBy: null,
  activatedAt: null,
  explanation: 'because',
  wave: null,
  devices: 0,
  excluded: 0,
  belowFloor: 0,
  untouched: 0,
  recalls: null,
  recall: null,
  counts,
  overdue: [],
  coolingDown: null,
  waves: [],
};

test.each([
  { form: 'words', flags: [] },
  { form: 'JSON', flags: ['--json'] },
])(
  'rollout watch prints a line of $form for every change, and none for a time that only runs down',
  async ({ flags }) => {
    const countdown = ['1 min 1 s', '1 min', '59 s'];
    let asked = 0;
    const url = await serveAnswer(200, () => {
      const left = countdown[asked];
      asked += 1;
      return left === undefined
        ? { ...view, state: 'completed' }
        : { ...view, state: 'running', explanation: `opens in another ${left}` };
    });
    const ran = await runSluice(['rollout', 'watch', 'r1', '--url', url, '--token', 'x', ...flags]);
    expect(ran.out.trim().split('\n')).toEqual([
      expect.stringContaining('running'),
      expect.stringContaining('completed'),
    ]);
  },
);

test('a rollout whose devices were told to activate says when, not how to tell them', async () => {
  const policy = Policy.parse({ activation: 'on-command' });
  let activatedAt: number | null = null;
  const url = await serveAnswer(200, () => ({ ...view, policy, activatedAt, state: 'running' }));
  const show = ['rollout', 'show', 'r1', '--url', url, '--token', 'x'];
  expect((await runSluice(show)).out).toContain('when told: sluice rollout activate r1');
  activatedAt = 1_795_275_310_000;
  expect((await runSluice(show)).out).toMatch(/activation +told to at \d{4}-/);
});

test('what can not be meant at once is refused, and one fault is told once', async () => {
  const both = ['rollout', 'create', 'gateway@1.0.0', '--cohort', 'all', '--urgent', '--priority', '10'];
  expect(await runSluice([...both, '--token', 'x'])).toMatchObject({
    code: 2,
    err: expect.stringContaining('either --priority or --urgent'),
  });
  const issues = [{ path: 'body.note', message: 'Too big' }];
  const problem = { ...toProblem('invalid-request', 'body.note: Too big'), issues };
  const url = await serveAnswer(400, () => problem);
  const ran = await runSluice(['rollout', 'list', '--url', url, '--token', 'x']);
  expect(ran.err.match(/body\.note/g)).toHaveLength(1);
});

test('a cohort that nobody is in is warned of, and waves are counted from 1 as in the explanation', async () => {
  const waves = [{ devices: 1, counts }];
  const cohort = { name: 'x', members: { kind: 'selector', selector: 'ring=canary' }, createdAt: 0 };
  const url = await serveAnswer(200, (path) =>
    path.includes('/cohorts/')
      ? { ...cohort, devices: path.endsWith('canary') ? 0 : 1 }
      : { ...view, state: 'running', wave: 0, waves, notices: [] },
  );
  const cohorts = ['--cohort', 'canary', '--cohort', 'lyon'];
  const ran = await runSluice(['rollout', 'create', 'gateway@1.0.0', ...cohorts, '--url', url, '--token', 'x']);
  expect(ran).toMatchObject({ code: 0, err: expect.stringMatching(/^warning: nobody is in cohort canary;.*\n$/) });
  expect(ran.out).toMatch(/WAVE +DEVICES +STATES\n +1 +1/);
});

test('rollout watch ends as the rollout does: 0 completed, 4 halted, 5 aborted', async () => {
  const ends = [];
  for (const state of ['completed', 'halted', 'aborted']) {
    const url = await serveAnswer(200, { ...view, state });
    const ran = await runSluice(['rollout', 'watch', 'r1', '--url', url, '--token', 'x']);
    ends.push([ran.code, ran.out.includes(state), ran.err.includes('because')]);
  }
  expect(ends).toEqual([
    [0, true, false],
    [4, true, true],
    [5, true, true],
  ]);
  const running = await serveAnswer(200, { ...view, state: 'running' });
  const late = await runSluice([
    'rollout',
    'watch',
    'r1',
    '--url',
    running,
    '--token',
    'x',
    '--timeout',
    '1ms',
    '--json',
  ]);
  expect(late).toMatchObject({ code: 1, err: expect.stringContaining('still running') });
  expect(JSON.parse(late.out)).toMatchObject({ state: 'running' });
});

test('a server that is none is named as such', async () => {
  const odd = await serveAnswer(200, { hello: 'world' });
  expect(await runSluice(['cohort', 'list', '--url', odd, '--token', 'x'])).toMatchObject({
    code: 1,
    err: expect.stringContaining('does not understand'),
  });
  const other = await serveAnswer(404, 'gone');
  expect(await runSluice(['cohort', 'list', '--url', other, '--token', 'x'])).toMatchObject({
    code: 1,
    err: expect.stringContaining('is it a Sluice server?'),
  });
});

test('a key is private, goes with its public half, and is never overwritten', async () => {
  const out = join(folder, 'ci.pem');
  const made = await runSluice(['key', 'new', '--out', out, '--json']);
  expect(made.code).toBe(0);
  const key = z.object({ keyId: z.string(), publicFile: z.string() }).parse(JSON.parse(made.out));
  expect(key.keyId).toMatch(/^[0-9a-f]{64}$/);
  expect((await stat(out)).mode & 0o777).toBe(0o600);
  expect(await readFile(key.publicFile, 'utf8')).toContain('BEGIN PUBLIC KEY');
  const before = await readFile(out, 'utf8');
  const again = await runSluice(['key', 'new', '--out', out]);
  expect(again).toMatchObject({ code: 1, err: expect.stringContaining('never overwritten') });
  expect(await readFile(out, 'utf8')).toBe(before);
  const rsa = await runSluice(['key', 'new', '--type', 'rsa-3072', '--out', join(folder, 'rsa.pem'), '--json']);
  expect(JSON.parse(rsa.out)).toMatchObject({ kind: 'rsa-3072' });
});

test('bundles are made from a description, the same every time, and checked', async () => {
  const description = join(ROOT, 'firmware-samples/good-1.0.0/bundle.yaml');
  const made = [];
  for (const name of ['one', 'two']) {
    const ran = await runSluice([
      'bundle',
      'create',
      '--file',
      description,
      '--out',
      `${join(folder, name)}/`,
      '--json',
    ]);
    expect(ran).toMatchObject({ code: 0, err: '' });
    made.push(
      z
        .array(z.object({ sha256: z.string() }))
        .parse(JSON.parse(ran.out))
        .map(({ sha256 }) => sha256),
    );
  }
  expect(made[0]).toHaveLength(2);
  expect(made[0]).toEqual(made[1]);
  const file = join(folder, 'one', 'gateway-1.0.0-gw-arm.sluice');
  const inspected = await runSluice(['bundle', 'inspect', file, '--json']);
  expect(JSON.parse(inspected.out)).toMatchObject({
    manifest: { product: 'gateway', version: '1.0.0', changes: ['GW-1'] },
  });
  expect(await runSluice(['bundle', 'verify', file])).toMatchObject({ code: 0 });
  const bytes = await readFile(file);
  bytes[bytes.length - 2000]! ^= 1;
  const bad = join(folder, 'bad.sluice');
  await writeFile(bad, bytes);
  const verified = await runSluice(['bundle', 'verify', file, bad]);
  expect(verified.code).toBe(1);
  expect(verified.out).toContain(`bad  ${bad}`);
  expect(verified.err).toMatch(/digest-mismatch|bundle-invalid/);
});

test('a file name of any length is cut where a bundle does not hold', async () => {
  const missing = `/${'a'.repeat(70_000)}.sluice`;
  const cut = /^bad {2}\/a{49}\.{3}a{43}\.sluice \(70008 characters\)\n$/;
  const verified = await runSluice(['bundle', 'verify', missing]);
  expect(verified).toMatchObject({ code: 1, out: expect.stringMatching(cut) });
  expect(verified.err.length).toBeLessThan(200);
  const { out } = await runSluice(['bundle', 'verify', missing, '--json']);
  expect(JSON.parse(out)).toMatchObject([{ ok: false, file: missing, why: verified.err.slice(7, -1) }]);
});

test('Ctrl-C in the middle of making a bundle leaves nothing behind', async () => {
  await mkdir(join(folder, 'large'));
  await writeFile(join(folder, 'large', 'image'), '');
  await truncate(join(folder, 'large', 'image'), 4 * 1024 ** 3);
  const out = join(folder, 'broken-off');
  const what = [
    '--product',
    'p',
    '--version',
    '1.0.0',
    '--compatible',
    'c',
    '--folder',
    `app=${join(folder, 'large')}`,
  ];
  const launcher = join(ROOT, 'cli/sluice.mjs');
  const child = spawn(process.execPath, [launcher, 'bundle', 'create', ...what, '--out', `${out}/`], {
    stdio: 'ignore',
  });
  const ended = once(child, 'exit');
  await expect.poll(() => readdir(out).catch(() => [])).toHaveLength(1);
  child.kill('SIGINT');
  expect(await ended).toEqual([130, null]);
  expect(await readdir(out)).toEqual([]);
});

test('flags describe a bundle too, and stand over the file', async () => {
  await writeFile(join(folder, 'app.mjs'), 'console.log(1)');
  const flags = ['--product', 'p', '--version', '2.0.0', '--compatible', 'c', '--artifact', 'app=app.mjs:bin/app.mjs'];
  const more = [
    '--health',
    'http://127.0.0.1:{port}/',
    '--change',
    'A-1',
    '--change',
    'A-2',
    '--attach',
    'sbom=app.mjs',
  ];
  const ran = await runSluice(['bundle', 'create', ...flags, ...more, '--run', 'node', 'bin/app.mjs', '--json'], {
    cwd: folder,
  });
  expect(ran).toMatchObject({ code: 0, err: '' });
  expect(JSON.parse(ran.out)).toMatchObject([
    {
      file: expect.stringMatching(/p-2\.0\.0-c\.sluice$/),
      manifest: {
        changes: ['A-1', 'A-2'],
        run: { command: ['node', 'bin/app.mjs'] },
        attachments: [{ kind: 'sbom', name: 'app.mjs' }],
      },
    },
  ]);
  const description = join(ROOT, 'firmware-samples/good-1.0.0/bundle.yaml');
  const over = ['--version', '9.9.9', '--compatible', 'gw-x86', '--out', join(folder, 'over.sluice'), '--json'];
  const second = await runSluice(['bundle', 'create', '--file', description, ...over]);
  expect(JSON.parse(second.out)).toMatchObject([{ manifest: { version: '9.9.9', compatible: 'gw-x86' } }]);
  const wrong = await runSluice(['bundle', 'create', '--product', 'p', '--version', 'v1'], { cwd: folder });
  expect(wrong).toMatchObject({ code: 2, err: expect.stringMatching(/version[\s\S]*artifacts/) });
});

test('an image is a bundle of its own, and is booted, not run', async () => {
  await writeFile(join(folder, 'rootfs.ext4'), Buffer.alloc(70_000, 'an image'));
  const flags = ['--product', 'os', '--version', '1.0.0', '--compatible', 'c', '--image', 'rootfs=rootfs.ext4'];
  const ran = await runSluice(['bundle', 'create', ...flags, '--json'], { cwd: folder });
  expect(JSON.parse(ran.out)).toMatchObject([
    { manifest: { artifacts: [{ name: 'rootfs', bytes: 70_000, install: { kind: 'image' } }] } },
  ]);
  const run = await runSluice(['bundle', 'create', ...flags, '--run', 'node', 'x'], { cwd: folder });
  expect(run).toMatchObject({ code: 1, err: expect.stringContaining('an image is booted, not run') });
  const two = await runSluice(['bundle', 'create', ...flags, '--image', 'other=rootfs.ext4'], { cwd: folder });
  expect(two).toMatchObject({ code: 1, err: expect.stringContaining('fills its slot alone') });
});

test('the kept token goes to the kept server and to no other', async () => {
  const home = { XDG_CONFIG_HOME: await mkdtemp(join(folder, 'home-')) };
  const file = await saveLogin(home, { url: 'https://one.example', token: 'secret' });
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(await findConnection({}, home)).toEqual({ url: 'https://one.example', token: 'secret' });
  expect(await findConnection({ url: 'https://one.example/' }, home)).toMatchObject({ token: 'secret' });
  await expect(findConnection({ url: 'https://two.example' }, home)).rejects.toMatchObject({ exitCode: 3 });
  await expect(findConnection({}, { ...home, SLUICE_URL: 'http://one.example' })).rejects.toMatchObject({
    exitCode: 3,
  });
  expect(await findConnection({}, { ...home, SLUICE_TOKEN: 'other' })).toEqual({
    url: 'https://one.example',
    token: 'other',
  });
  await expect(findConnection({ url: 'ftp://x', token: 'x' }, home)).rejects.toMatchObject({ exitCode: 2 });
});

test('the launcher can be parsed by every Node, and finds the one that the project brings', () => {
  const launcher = join(ROOT, 'cli/sluice.mjs');
  const direct = spawnSync(process.execPath, [launcher, '--version'], { encoding: 'utf8' });
  expect(direct).toMatchObject({ status: 0, stdout: expect.stringMatching(/^\d/) });
  const wrong = spawnSync(process.execPath, [launcher, 'nonsense'], { encoding: 'utf8' });
  expect(wrong.status).toBe(2);
});
