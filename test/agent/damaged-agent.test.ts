import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { chooseAgent, launchEnvironment } from '#agent/launch.ts';
import { bootingItself } from '#agent/self-update.ts';
import { openDirectorySlots } from '#agent/slots/directories.ts';
import { deploy, fakeSupervisor, folder, makeRelease } from './slot-pair.ts';

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
  /** One start by whoever keeps it running; an agent other than the installed one ends at once. */
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
  return { agent, start };
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
