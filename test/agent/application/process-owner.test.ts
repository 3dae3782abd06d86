import { spawn } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { expect, onTestFinished, test } from 'vitest';
import { BECOME, becoming } from '#agent/application/become.ts';
import { findOwner, type OwnerNames } from '#agent/application/process-owner.ts';
import { exitSentence, openSupervisor, type SupervisorOptions } from '#agent/application/supervisor.ts';
import { openDevice, startTestServer, until } from '../harness.ts';

const isRoot = process.getuid?.() === 0;

const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-owner-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};

test.skipIf(isRoot)('only an agent that runs as root may let its application run as another user', async () => {
  const owner = await findOwner({ user: 'root', group: undefined, groups: [] });
  expect(owner).toMatchObject({ ok: false, message: /runs as root/ });
});

/** `ldap` is a user whom only the system's other sources know. */
const ID = `#!/bin/sh
case "$1 $2" in
  '-u ldap') echo 7001 ;; '-g ldap') echo 7002 ;; '-G ldap') echo 7002 20 7003 ;;
  '-u app') echo 1 ;; '-g app') echo 65533 ;; '-G app') echo 65533 7004 ;;
  *) echo "no such user" >&2; exit 1 ;;
esac
`;
const sources = async (id = ID) => {
  const dir = await folder();
  const files = { users: join(dir, 'passwd'), groups: join(dir, 'group'), id: join(dir, 'id') };
  await writeFile(files.users, 'root:x:0:0::/root:/bin/sh\napp:x:65534:65533::/:/bin/false\nlone:x:7:8::/:/bin/sh\n');
  await writeFile(
    files.groups,
    'root:x:0:\ndialout:x:20:other,app\ngpio:x:997:app\nvideo:x:44:other\napple:x:9:apps\n',
  );
  await writeFile(files.id, id);
  await chmod(files.id, 0o755);
  return files;
};
const names = (user: string | undefined, more: Partial<OwnerNames> = {}): OwnerNames => ({
  user,
  group: undefined,
  groups: [],
  ...more,
});

test.runIf(isRoot)(
  'a user has the groups of a login, from the files and from other sources, and those that are added',
  async () => {
    const files = await sources();
    const find = (user: string, more?: Partial<OwnerNames>) => findOwner(names(user, more), files);
    const app = { uid: 65534, gid: 65533, groups: [20, 997, 7004] };
    expect(await find('app')).toEqual({ ok: true, owner: app });
    expect(await find('65534')).toEqual({ ok: true, owner: app });
    expect(await find('app', { groups: ['video', '12', 'gpio'] })).toEqual({
      ok: true,
      owner: { ...app, groups: [20, 997, 7004, 44, 12] },
    });
    expect(await find('app', { group: 'dialout' })).toEqual({
      ok: true,
      owner: { uid: 65534, gid: 20, groups: [997, 7004] },
    });
    expect(await find('app', { group: '7' })).toMatchObject({ ok: true, owner: { gid: 7 } });
    expect(await findOwner(names(undefined), files)).toEqual({ ok: true, owner: null });
    expect(await find('lone')).toEqual({ ok: true, owner: { uid: 7, gid: 8, groups: [] } });
    expect(await find('ldap')).toEqual({ ok: true, owner: { uid: 7001, gid: 7002, groups: [20, 7003] } });
  },
);

test.runIf(isRoot)('what is not there is named', async () => {
  const find = async (user: string, more?: Partial<OwnerNames>) => findOwner(names(user, more), await sources());
  expect(await find('nobody-here')).toEqual({ ok: false, message: 'there is no user nobody-here' });
  expect(await find('-G')).toEqual({ ok: false, message: 'there is no user -G' });
  expect(await find('1234')).toMatchObject({ ok: false, message: 'there is no group for the user 1234' });
  expect(await find('app', { group: 'nowhere' })).toMatchObject({ ok: false, message: 'there is no group nowhere' });
  expect(await findOwner(names(undefined, { groups: ['gpio'] }))).toMatchObject({
    ok: false,
    message: expect.stringContaining('set application.user'),
  });
  expect(await find('app', { groups: ['gpio', 'spi'] })).toEqual({
    ok: false,
    message: 'there is no group spi, which application.groups names',
  });
});

test.runIf(isRoot)('without `id`, or with one that fails, the files count', async () => {
  const files = await sources('#!/bin/sh\nexit 1\n');
  const owner = { uid: 65534, gid: 65533, groups: [20, 997] };
  expect(await findOwner(names('app'), files)).toEqual({ ok: true, owner });
  expect(await findOwner(names('app'), { ...files, id: '/nowhere/id' })).toEqual({ ok: true, owner });
});

test.runIf(isRoot)("the system's own sources agree with what they say of root", async () => {
  expect(await findOwner(names('root'))).toMatchObject({ ok: true, owner: { uid: 0, gid: 0 } });
});

const supervisor = async (more: Partial<SupervisorOptions>) => {
  const dir = await folder();
  const opened = await openSupervisor({ dir, stopMs: 1_000, ...more });
  onTestFinished(() => opened.stop());
  const start = (script: string, environment: Record<string, string> = {}) =>
    opened.start({ slot: 'a', command: ['node', '-e', script], folder: '/', environment, onExit: 'report' });
  return { dir, opened, start, output: (what: RegExp) => expect.poll(() => opened.lastOutput(4_096)).toMatch(what) };
};
const SAY_WHO =
  'console.log("as", process.getuid(), process.getgid(), process.getgroups().sort((a, b) => a - b).join())';

test.runIf(isRoot)('an application without other groups has its own alone', async () => {
  const { start, output } = await supervisor({ owner: { uid: 65534, gid: 65533, groups: [] } });
  expect(await start(SAY_WHO)).toEqual({ ok: true });
  await output(/as 65534 65533 65533?/);
});

test.runIf(isRoot)(
  'an application has all groups of its user, the same process, its limits and its environment',
  async () => {
    const { dir, opened, start, output } = await supervisor({
      owner: { uid: 65534, gid: 65533, groups: [20, 997, 7004] },
      limits: { files: 77 },
    });
    const long = `${'long '.repeat(20_000)}ä`;
    await start(
      `${SAY_WHO}; console.log(process.env.TEXT.length, process.env.TEXT.slice(-1));
    console.log(require('child_process').execSync('ulimit -n').toString()); setInterval(() => 0, 1000);`,
      { TEXT: long },
    );
    await output(/as 65534 65533 20,997,7004,65533\n100001 ä\n77/);
    const { pid } = JSON.parse(await readFile(join(dir, 'application.json'), 'utf8')) as { pid: number };
    expect(opened.running()).toMatchObject({ pid });
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    expect(status).toMatch(/^Uid:\t65534\t65534\t65534\t65534$/m);
    expect(status).toMatch(/^Groups:\t20 997 7004 $/m);
    expect(status).toMatch(/^CapEff:\t0+$/m);
    await opened.stop();
    expect(opened.running()).toBeNull();
  },
);

test.runIf(isRoot)("nothing of the release's environment runs before the application is its user", async () => {
  const { dir, opened, start, output } = await supervisor({ owner: { uid: 65534, gid: 65533, groups: [20] } });
  await chmod(dir, 0o755);
  const file = join(dir, 'preload.cjs');
  await writeFile(file, 'console.log("preloaded as", process.getuid());');
  await start('setInterval(() => 0, 1000)', { NODE_OPTIONS: `--require ${file}` });
  await output(/preloaded as 65534/);
  expect(await opened.lastOutput(4_096)).not.toContain('preloaded as 0');
});

test.runIf(isRoot)('a user that cannot be become is said, and the application does not run', async () => {
  const { opened, start, output } = await supervisor({ owner: { uid: 65534, gid: 65533, groups: [-5] } });
  const exits: string[] = [];
  opened.listen((exit) => exits.push(exitSentence(exit)));
  await start('console.log("ran")');
  await output(/cannot become user 65534/);
  await expect.poll(() => exits).toEqual([expect.stringContaining('its user, cannot be set')]);
  expect(await opened.lastOutput(4_096)).not.toMatch(/^ran/m);
});

test.runIf(isRoot)('an agent that is a program of its own becomes the application itself', async () => {
  const owner = { uid: 65534, gid: 65533, groups: [20, 997] };
  const { words, input } = becoming(owner, ['/bin/sh', '-c', 'id -G; cat; echo $TEXT'], { TEXT: 'hello' });
  const ownWords = [
    join(import.meta.dirname, '../../../agent/main.ts'),
    BECOME,
    ...words.slice(words.indexOf('65534')),
  ];
  const child = spawn(process.execPath, ownWords, { stdio: ['pipe', 'pipe', 'inherit'] });
  child.stdin.end(Buffer.concat([input, Buffer.from('the rest\n')]));
  expect(await text(child.stdout)).toBe('65533 20 997\nthe rest\nhello\n');
});

test.runIf(isRoot)('an agent runs its application with the groups that are configured', async () => {
  const server = await startTestServer();
  const device = await openDevice(server, {
    application: { stopMs: 1_000, user: '65534', group: '65533', groups: '20, 997' },
  });
  await chmod(device.dir, 0o711);
  const agent = device.start();
  const script = `import { writeFileSync } from 'node:fs';
    writeFileSync(process.env.SLUICE_DATA + '/who', [process.getuid(), ...process.getgroups()].join());
    setInterval(() => {}, 1000);`;
  server.desire((await server.publishRelease('1.0.0', script)).instruction);
  await until(
    'it is committed',
    () => agent.states().includes('committed'),
    60_000,
    () => agent.lines,
  );
  expect(await readFile(join(device.dataDir, 'application', 'who'), 'utf8')).toMatch(
    /^65534,(65533,)?20,997(,65533)?$/,
  );
  await agent.stop();
});
