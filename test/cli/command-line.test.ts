import { spawnSync } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { expect, onTestFinished, test } from 'vitest';
import { findConnection, saveLogin } from '#cli/login-file.ts';
import { buildProgram } from '#cli/program.ts';
import { toProblem } from '#shared/problems.ts';
import { serveAnswer } from './answers.ts';
import { runSluice } from './run.ts';

const ROOT = join(import.meta.dirname, '..', '..');

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

/**
 * What documents tell people to type, in code blocks and in tables: each line as words, without what the shell does.
 */
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
    'gateway-1.4.0.sluice (301 characters) cannot be read',
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

test('exit code 3 when no one listens, no one is logged in, or the token is unknown', async () => {
  // A port that no one has: one that is free again may be given to the next who asks.
  const nobody = await runSluice(['device', 'list', '--url', 'http://127.0.0.1:2', '--token', 'x']);
  expect(nobody).toMatchObject({ code: 3, out: '' });
  expect(nobody.err).toMatch(/^error: Cannot reach http:\/\/127\.0\.0\.1:\d+: .*ECONNREFUSED.*\n$/);
  expect(await runSluice(['device', 'list'])).toMatchObject({ code: 3, err: expect.stringContaining('sluice login') });
  const url = await serveAnswer(401, toProblem('unauthenticated', 'the token is unknown'));
  expect(await runSluice(['device', 'list', '--url', url, '--token', 'x'])).toMatchObject({ code: 3 });
});

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

test('what cannot be meant at once is refused, and one fault is told once', async () => {
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

test('the kept token goes to the kept server and to no other', async () => {
  const home = { XDG_CONFIG_HOME: await mkdtemp(join(tmpdir(), 'sluice-home-')) };
  onTestFinished(() => rm(home.XDG_CONFIG_HOME, { recursive: true }));
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

test('the launcher finds the Node that the project brings when the one that runs it is too old, or says so', async () => {
  const launcher = join(ROOT, 'cli/sluice.mjs');
  const start = (file: string, flags: string[], words: string[]) =>
    spawnSync(process.execPath, [...flags, file, ...words], { encoding: 'utf8' });
  const version = { status: 0, stdout: expect.stringMatching(/^\d/), stderr: '' };
  expect(start(launcher, [], ['--version'])).toMatchObject(version);
  expect(start(launcher, [], ['nonsense']).status).toBe(2);

  const code = "Object.defineProperty(process.versions, 'node', { value: '24.14.1' })";
  const old = ['--import', `data:text/javascript,${encodeURIComponent(code)}`];
  expect(start(launcher, old, ['--version'])).toMatchObject(version);
  expect(start(launcher, old, ['nonsense']).status).toBe(2);
  const alone = await mkdtemp(join(tmpdir(), 'sluice-launcher-'));
  onTestFinished(() => rm(alone, { recursive: true }));
  await mkdir(join(alone, 'cli'));
  for (const file of ['package.json', 'cli/sluice.mjs']) await copyFile(join(ROOT, file), join(alone, file));
  expect(start(join(alone, 'cli/sluice.mjs'), old, ['--version'])).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/^sluice needs Node 24\.15 or newer, and this is 24\.14\.1: .*\n$/),
  });
});
