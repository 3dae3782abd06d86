import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { swept } from '#test/sweep.ts';
import { openCrashRig } from './crash-rig.ts';
import { NEVER_WELL, until } from './harness.ts';

// A trial that changes the application's data, killed at every durable step of its snapshot.

const rig = await openCrashRig();

const SNAPSHOT = { data: { snapshot: true } };
/** Changes what it finds, the way a migration does. */
const MIGRATE = `
  import { rmSync, writeFileSync } from 'node:fs';
  const { SLUICE_DATA } = process.env;
  writeFileSync(SLUICE_DATA + '/schema', '2');
  rmSync(SLUICE_DATA + '/table', { recursive: true, force: true });
  writeFileSync(SLUICE_DATA + '/new-table', 'rows of ' + process.env.SLUICE_VERSION);
`;
const RUNS = `${MIGRATE} setInterval(() => {}, 1000);`;
const CRASHES = `${MIGRATE} process.exit(3);`;

const settledDevice = async () => {
  const device = await rig.settledDevice();
  const data = join(device.dataDir, 'application');
  await mkdir(join(data, 'table'), { recursive: true });
  await writeFile(join(data, 'schema'), '1');
  await writeFile(join(data, 'table', 'rows'), 'precious');
  const see = async () => {
    const names = (await readdir(data, { recursive: true })).sort();
    return Promise.all(names.map(async (name) => [name, await readFile(join(data, name), 'utf8').catch(() => null)]));
  };
  const leftOver = async (): Promise<string[]> =>
    (await readdir(device.dataDir)).filter((name) => /^application\.(?!env)/.test(name));
  return { device, see, leftOver };
};
const OLD = [
  ['schema', '1'],
  ['table', null],
  ['table/rows', 'precious'],
];

describe('data of a trial', () => {
  test.each(
    swept(
      ['data.copied', 'data.taken', 'slots.boot.counted', 'slots.revert.written', 'data.set-aside', 'data.restored'],
      2,
    ),
  )('is what it was before a reverted trial, killed at %s', async (step) => {
    const { device, see, leftOver } = await settledDevice();
    const release = await rig.crashAt(device, step, CRASHES, { ...NEVER_WELL, ...SNAPSHOT });
    await rig.finish(device);
    expect(rig.server.state.receipts).toMatchObject([
      { deployment: release.instruction.deployment, outcome: 'reverted', running: { version: '1.0.0' } },
    ]);
    expect(await see()).toEqual(OLD);
    expect(await leftOver()).toEqual([]);
  });

  test.each(swept(['data.taken', 'slots.commit.written', 'data.discarded'], 1))(
    'is what a committed trial made of it, killed at %s',
    async (step) => {
      const { device, see, leftOver } = await settledDevice();
      const release = await rig.crashAt(device, step, RUNS, SNAPSHOT);
      await rig.finish(device);
      rig.expectCommitted(release);
      expect(await see()).toEqual([
        ['new-table', `rows of ${release.version}`],
        ['schema', '2'],
      ]);
      expect(await leftOver()).toEqual([]);
    },
  );

  test('is put back also when the journal is lost with the trial', async () => {
    const { device, see, leftOver } = await settledDevice();
    await rig.crashAt(device, 'journal.reverting', CRASHES, { ...NEVER_WELL, ...SNAPSHOT });
    expect(await see()).not.toEqual(OLD);
    await writeFile(join(device.dataDir, 'journal'), 'not a journal\n'.repeat(3));
    rig.server.desire({ kind: 'none', reason: 'stay' }, { push: false });
    const agent = device.start();
    await until('the snapshot is settled', async () => (await leftOver()).length === 0);
    expect(await see()).toEqual(OLD);
    await until('it runs what it ran before', () => rig.server.state.reports.at(-1)?.running?.slot === 'a');
    await agent.stop();
  });

  test('that does not fit ends the deployment before anything is activated, and the old version goes on', async () => {
    const { device, see, leftOver } = await settledDevice();
    const agent = device.start(undefined, { SLUICE_AGENT_DATA_BYTES_MAX: '4' });
    const release = await rig.publishNext(RUNS, SNAPSHOT);
    rig.server.desire(release.instruction);
    await until('it reports the outcome', () => rig.server.state.receipts.length > 0);
    expect(rig.server.state.receipts).toMatchObject([
      { outcome: 'reverted', error: { code: 'NO_SPACE' }, running: { version: '1.0.0' } },
    ]);
    expect(await see()).toEqual(OLD);
    expect(await leftOver()).toEqual([]);
    await agent.stop();
  });
});
