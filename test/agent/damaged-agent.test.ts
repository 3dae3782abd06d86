import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import type { Slots } from '#agent/domain/slots.ts';
import { watchComingUp } from '#agent/launch/coming-up.ts';
import { chooseAgent, LAUNCH_ENVIRONMENT, launchEnvironment } from '#agent/launch/launch.ts';
import { bootingItself } from '#agent/launch/self-update.ts';
import { openDirectorySlots } from '#agent/slots/directories.ts';
import { seal } from '#agent/slots/sealed.ts';
import { deploy, fakeSupervisor, folder, install, makeRelease } from './slots/slot-pair.ts';

/** A device whose committed release has brought its agent along. */
const openDevice = async () => {
  const dataDir = await folder();
  const builtIn = join(dataDir, 'installed.mjs');
  await writeFile(builtIn, '// the installed agent');
  const supervisor = fakeSupervisor();
  const slots = await openDirectorySlots({ dir: join(dataDir, 'slots'), supervisor });
  await deploy(slots, 'a', await makeRelease(dataDir, '1.0.0', { agent: { path: 'app.js' } }), 'd1');
  await supervisor.stop();
  const agent = join(dataDir, 'slots/a/app.js');
  /** One start by what keeps it running; an agent other than the installed one ends at once. */
  const start = async (): Promise<string> => {
    const choice = await chooseAgent(dataDir, builtIn);
    if (choice.file !== builtIn) return choice.file;
    let relaunched = false;
    const own = await bootingItself(slots, {
      dataDir,
      env: launchEnvironment(builtIn, choice),
      program: builtIn,
      relaunch: () => void (relaunched = true),
      log: { info: () => undefined, error: () => undefined } as never,
    });
    const { booted } = await own.boot(AbortSignal.timeout(200));
    return relaunched ? 'relaunched' : `the installed agent runs slot ${booted}`;
  };
  return { agent, start, dataDir, slots };
};
const RUNS = 'the installed agent runs slot a';

test('a committed agent that never comes up gives way to the installed one, which runs the application', async () => {
  const { agent, start } = await openDevice();
  await writeFile(agent, 'damaged');
  const starts: string[] = [];
  for (let count = 0; count < 8; count += 1) starts.push(await start());
  expect(starts).toEqual([agent, agent, agent, agent, agent, RUNS, RUNS, RUNS]);
});

test('a committed agent whose file is gone gives way at once', async () => {
  const { agent, start } = await openDevice();
  await rm(agent);
  expect([await start(), await start()]).toEqual([RUNS, RUNS]);
});

test('an agent that has run for a while, or was told to end, begins again; a crash in the first seconds counts', async () => {
  const { agent, start, dataDir } = await openDevice();
  const env = { [LAUNCH_ENVIRONMENT.builtIn]: 'installed.mjs' };
  const counted = async () =>
    JSON.parse((await readFile(join(dataDir, 'launches.json'), 'utf8')).split('\n')[0]!).committed;
  const life = (contact: boolean, limits: { lifeMs: number; contactMs: number }, more: object = {}) =>
    watchComingUp({ dataDir, env: { ...env, ...more }, contact: () => contact, limits: { ...limits, lookMs: 1 } });
  for (let count = 0; count < 4; count += 1) expect(await start()).toBe(agent);
  expect(await counted()).toMatchObject({ starts: 4, all: 4 });

  const never = { lifeMs: 1e9, contactMs: 1e9 };
  life(true, never);
  // An installed agent that runs in its place proves nothing about it.
  life(true, { lifeMs: 0, contactMs: 0 }, { [LAUNCH_ENVIRONMENT.gaveWay]: 'a'.repeat(64) });
  // Contact some time ago, though it may have lasted no longer than that.
  life(true, { lifeMs: 1e9, contactMs: 0 });
  await vi.waitFor(async () => expect(await counted()).toBeNull(), { timeout: 60_000, interval: 5 });

  expect(await start()).toBe(agent);
  expect(await counted()).toMatchObject({ starts: 1 });
  life(false, { lifeMs: 0, contactMs: 1e9 });
  await vi.waitFor(async () => expect(await counted()).toBeNull(), { timeout: 60_000, interval: 5 });

  expect(await start()).toBe(agent);
  await life(false, never).stopped();
  expect(await counted()).toBeNull();
});

test('starts in another boot of the machine count for less, but not for nothing', async () => {
  const { agent, start, dataDir } = await openDevice();
  const file = join(dataDir, 'launches.json');
  const rebooted = async (): Promise<void> => {
    const known = JSON.parse((await readFile(file, 'utf8')).split('\n')[0]!);
    await writeFile(file, seal({ ...known, committed: { ...known.committed, boot: 'another' } }));
  };
  const starts: string[] = [];
  for (let count = 0; count < 22; count += 1) {
    starts.push(await start());
    await rebooted();
  }
  expect(starts).toEqual([...Array(20).fill(agent), RUNS, RUNS]);
});

test('a trial that cannot be forgotten is over for this life all the same: nothing is started in turns', async () => {
  const { dataDir, slots } = await openDevice();
  const next = await makeRelease(dataDir, '1.1.0', { agent: { path: 'app.js' } });
  await install(slots, 'b', next);
  expect(await slots.activate('b', { tries: 2, deployment: 'd2' })).toEqual({ ok: true });
  // As on a full disk: neither a start can be counted nor the selector be written.
  await rm(join(dataDir, 'launches.json'), { force: true });
  await mkdir(join(dataDir, 'launches.json'));
  const refusing: Slots = { ...slots, revert: async () => ({ ok: false, code: 'NO_SPACE', message: 'full' }) };
  const choice = await chooseAgent(dataDir, join(dataDir, 'installed.mjs'));
  expect(choice).toMatchObject({ trial: null, fellBack: 'd2' });
  let relaunched = 0;
  const own = await bootingItself(refusing, {
    dataDir,
    env: launchEnvironment(join(dataDir, 'installed.mjs'), choice),
    program: choice.file,
    relaunch: () => void (relaunched += 1),
    log: { info: () => undefined, error: () => undefined } as never,
  });
  expect(await own.boot()).toMatchObject({ booted: expect.anything() });
  expect(relaunched).toBe(0);
});
