/**
 * Every change that an agent makes to its disk, from its start to the end of an install, refused one by one in each way
 * that a disk refuses: the real agent with a real server, application and disk. A few of them here; all of them with
 * SLUICE_EVERY_WRITE=1/1, which takes about an hour, and every seventh with SLUICE_EVERY_WRITE=3/7.
 */
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { AgentConfig } from '#agent/config/config.ts';
import { readCommandLine } from '#agent/launch/command-line.ts';
import { runAgent } from '#agent/main.ts';
import { APPS, openDevice, startTestServer, until } from './harness.ts';
import { mountRefusing, type Refusing } from './refusing-disk.ts';

const [, SHARE_AT, SHARES] = /^(\d+)\/(\d+)$/.exec(process.env['SLUICE_EVERY_WRITE'] ?? '') ?? [];
/** Null: one change for each code. */
const SHARE = SHARE_AT === undefined ? null : { at: Number(SHARE_AT), of: Number(SHARES) };
const isIn = (share: { at: number; of: number }, at: number): boolean => at % share.of === share.at - 1;
const TIMEOUT_MS = SHARE !== null ? 3_600_000 : 300_000;

type Running = { stop(): Promise<void>; ended: Promise<string | null> };

const finishers: (() => Promise<void>)[] = [];
const later = (stop: () => Promise<void>): void => void finishers.unshift(stop);
afterAll(async () => {
  for (const finish of finishers) await finish();
});
let server: Awaited<ReturnType<typeof startTestServer>>;
let config: AgentConfig;
let settled: string;
let disk: Refusing | undefined;
let versions = 0;
afterEach(() => {
  disk?.unmount();
  disk = undefined;
});

/** In this process. `ended` is what it threw; null when it was stopped. */
const run = (dataDir: string): Running => {
  const stopping = new AbortController();
  const ended = runAgent({ ...config, dataDir }, stopping.signal).then(
    () => null,
    (error: unknown) => String(error),
  );
  return {
    ended,
    stop: async () => {
      stopping.abort();
      expect(await ended).toBeNull();
      await until('the broker has noticed', server.nobodyIsConnected);
    },
  };
};
const forget = (): void =>
  void Object.assign(server.state, { desired: null, reports: [], receipts: [], healthy: null });
const publishNext = () => {
  versions += 1;
  return server.publishRelease(`1.1.${versions}`, APPS.good);
};
const runsAndReports = () => server.state.healthy === true && server.state.reports.at(-1)?.running !== null;

beforeAll(async () => {
  server = await startTestServer(later);
  const device = await openDevice(server, { log: { level: 'silent' } }, later);
  const read = readCommandLine(['--config', device.configFile], {});
  if (!read.ok || 'print' in read.value) throw new Error('the configuration cannot be read');
  config = read.value.config;
  settled = device.dataDir;
  server.desire((await server.publishRelease('1.0.0', APPS.good)).instruction);
  const agent = run(settled);
  await until('1.0.0 is committed', () => server.state.reports.at(-1)?.running?.version === '1.0.0');
  await until('it is idle', () => server.state.receipts.length > 0 && server.state.reports.at(-1)?.deployment === null);
  await agent.stop();
}, TIMEOUT_MS);

const copyOfSettled = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-every-write-'));
  later(() => rm(dir, { recursive: true, force: true, maxRetries: 5 }));
  const dataDir = join(dir, 'data');
  await cp(settled, dataDir, { recursive: true });
  forget();
  return dataDir;
};

/** What the agent changes in a life in which it installs a version, and how many of that before it is offered. */
const changesOfALife = async (): Promise<{ changes: string[]; ofStart: number }> => {
  const dataDir = await copyOfSettled();
  disk = mountRefusing(dataDir);
  const agent = run(dataDir);
  await until('it runs', runsAndReports);
  const ofStart = disk.changes.length;
  server.desire((await publishNext()).instruction);
  await until('it is committed', () => server.state.receipts.length > 0);
  await agent.stop();
  const { changes } = disk;
  disk.unmount();
  return { changes, ofStart };
};

const CODES = /NO_SPACE|WRITE_FAILED|WRITE_VERIFY|REVERT_FAILED|PRECONDITION|FETCH_FAILED/;

/** The disk refuses from a change on; in the end it is well again. Throws what does not hold. */
const liveThrough = async (code: string, at: number, atStart: boolean): Promise<void> => {
  const dataDir = await copyOfSettled();
  const release = await publishNext();
  disk = mountRefusing(dataDir);
  disk.refuse(code, at);
  const agent = run(dataDir);
  let ended: string | null | undefined;
  void agent.ended.then((how) => (ended = how));
  const facts = () => [disk?.changes.slice(-5), server.state.reports.at(-1), server.state.receipts];
  const holds = async (what: string, condition: () => unknown): Promise<void> => {
    await until(what, () => condition() || ended !== undefined, 60_000, facts);
    if (ended !== undefined) throw new Error(`it has ended before ${what}: ${ended}`);
  };
  const runs = (version: string) => server.state.reports.at(-1)?.running?.version === version && server.state.healthy;
  await holds('its application runs, and it reports', () => runs('1.0.0'));
  server.desire(release.instruction);
  if (atStart) await holds('it says what is wrong', () => server.state.reports.at(-1)?.attributes['disk']);
  else await holds('the disk has refused', () => disk!.refused() > 0 || server.state.receipts.length > 0);
  disk.heal();
  await holds('the deployment ends', () => server.state.receipts.length > 0);
  await holds('it is idle', () => server.state.reports.at(-1)?.deployment === null);
  const { receipts } = server.state;
  const [{ outcome, error, deployment } = { outcome: 'none' as const, error: undefined, deployment: '' }] = receipts;
  if (receipts.length !== 1 || deployment !== release.instruction.deployment)
    throw new Error(`the receipts are ${JSON.stringify(receipts)}`);
  if (outcome !== 'committed' && (!/failed|reverted/.test(outcome) || !CODES.test(error?.code ?? '')))
    throw new Error(`it ended as ${outcome}: ${JSON.stringify(error)}`);
  await holds('what the receipt says runs', () => runs(outcome === 'committed' ? release.version : '1.0.0'));
  await agent.stop();
  disk.unmount();
};

let life: Awaited<ReturnType<typeof changesOfALife>> | undefined;
/** At one change, `part` of the way from the first to the last, or at all of them. Resolves to what did not hold. */
const eachChange = async (code: string, part: number): Promise<string[]> => {
  life ??= await changesOfALife();
  const { changes, ofStart } = life;
  const wanted = (at: number): boolean => (SHARE === null ? at === Math.floor(part * changes.length) : isIn(SHARE, at));
  const wrong: string[] = [];
  for (const [at, change] of changes.entries()) {
    if (!wanted(at)) continue;
    if (SHARE !== null) console.log(`${at} of ${changes.length}, before ${change}: ${code}`);
    await liveThrough(code, at, at < ofStart).catch((error: unknown) => {
      wrong.push(`${code} from ${at} on, before ${change}: ${String(error)}`);
      disk?.unmount();
    });
  }
  return wrong;
};

test(
  '26: disk can only be read, from any write on: its application runs, its server hears of it, and it goes on by itself',
  async () => {
    expect(await eachChange('EROFS', 0)).toEqual([]);
  },
  TIMEOUT_MS,
);
test(
  '27: disk fails, from any write or flush on: its application runs, its server hears of it, and it goes on by itself',
  async () => {
    expect(await eachChange('EIO', 0.3)).toEqual([]);
  },
  TIMEOUT_MS,
);
test(
  "18: disk full, download, journal, log: fails clean; a log that can't be written is not fatal (from any write on: its application runs, its server hears of it, and it goes on by itself)",
  async () => {
    expect(await eachChange('ENOSPC', 0.05)).toEqual([]);
    expect(await eachChange('EDQUOT', 0.6)).toEqual([]);
  },
  TIMEOUT_MS,
);
