/**
 * `npm run test:vm`: a virtual machine with GRUB, two slots and a data partition is updated by the agent, release after
 * release, through real rollouts of a real server, while its power is cut: in every state, at single writes, and at
 * random. It must always boot a release that was published, report, and come to the right outcome; what cannot boot
 * must be left again by the boot counter. Exit code 0 is good, 1 bad, 77 "cannot be run here".
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { readArguments, wholeNumber } from '#test/arguments.ts';
import { CUT_SIGNS, CUT_STATES } from './cuts.ts';
import type { Counts } from './device.ts';
import { makeBase } from './images.ts';
import { runLane, type Shared } from './lane.ts';
import { fetchKernel, missingPackages } from './tools.ts';

const NAME = '9: power cut of a virtual machine, random, many times: always boots a verified slot';
const CANNOT_RUN = 77;
const USAGE = `Usage: npm run test:vm -- [--cuts N] [--seed S] [--lanes L] [--minutes M] [--keep]

  --cuts N     how often power is cut, altogether (100)
  --seed S     where it is cut and what the drives lose; printed in the end
  --lanes L    so many virtual machines at the same time (half as many as there are processors)
  --minutes M  no further rollout begins after (120)
  --keep       keep the working folder also when all is good: console.log, server.log
`;

const { values } = readArguments(USAGE, {
  options: {
    cuts: { type: 'string', default: '100' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    lanes: { type: 'string', default: String(Math.max(1, Math.floor(availableParallelism() / 2))) },
    minutes: { type: 'string', default: '120' },
    keep: { type: 'boolean', default: false },
  },
});
const cuts = wholeNumber('--cuts', values.cuts, [1, 1_000_000]);
const seed = wholeNumber('--seed', values.seed, [0, 2 ** 31]);
const lanes = wholeNumber('--lanes', values.lanes, [1, 64]);
const minutes = wholeNumber('--minutes', values.minutes, [0, 100_000]);
const beganAt = performance.now();
const say = (line: string): void => {
  const seconds = Math.round((performance.now() - beganAt) / 1000);
  console.log(`${String(Math.floor(seconds / 60)).padStart(3)}:${String(seconds % 60).padStart(2, '0')}  ${line}`);
};

const prepare = async (work: string): Promise<Shared | undefined> => {
  const missing = await missingPackages();
  const kernel = missing.length === 0 ? await fetchKernel() : undefined;
  if (kernel === undefined) {
    say(
      `skipped: ${missing.length > 0 ? `it needs ${missing.join(', ')}` : 'the package linux-image-cloud-amd64 cannot be had'}`,
    );
    return undefined;
  }
  const agentFile = join(work, 'agent.mjs');
  const environment = { ...process.env, SLUICE_AGENT_FILE: agentFile };
  await promisify(execFile)('npx', ['rolldown', '-c'], {
    cwd: join(import.meta.dirname, '..', '..'),
    env: environment,
  });
  return { kernel, base: await makeBase(kernel, work), agentFile };
};

const summarize = (all: Counts[]): void => {
  const sum = (of: (counts: Counts) => number): number => all.reduce((total, counts) => total + of(counts), 0);
  say(
    `${sum((c) => c.cuts)} cuts (seed ${seed}), ${sum((c) => c.watchdog)} resets by the watchdog; ${sum((c) => c.boots)} boots, all into published slots, of which ${sum((c) => c.reports)} came to report`,
  );
  say(
    `${sum((c) => c.unflushed)} sectors were in the drives' caches when power went, ${sum((c) => c.lost)} of them were lost`,
  );
  const cutIn = ['power-on', ...Object.keys(CUT_SIGNS), ...CUT_STATES].map(
    (where) => `${where} ${sum((c) => c.cutIn.get(where) ?? 0)}`,
  );
  say(`cut in: ${cutIn.join(', ')}`);
};

const test = async (work: string, signal: AbortSignal): Promise<number> => {
  const shared = await prepare(work);
  if (shared === undefined) return CANNOT_RUN;
  say(NAME);
  say(`seed ${seed}, ${cuts} cuts in ${lanes} machines; consoles and drives are in ${work}`);
  const ends = await Promise.all(
    Array.from({ length: lanes }, (_, lane) =>
      runLane(shared, {
        work: join(work, `lane-${lane}`),
        seed: seed + lane,
        cutsMax: Math.ceil(cuts / lanes),
        deadlineAt: beganAt + minutes * 60_000,
        lane,
        lanes,
        say: lanes === 1 ? say : (line) => say(`[${lane}] ${line}`),
        signal,
      }),
    ),
  );
  summarize(ends.flatMap(({ counts }) => counts ?? []));
  const violations = ends.flatMap(({ violation }) => violation ?? []);
  for (const violation of violations) say(`FAILED, seed ${seed}: ${violation}`);
  if (violations.length === 0)
    say('good: always a published slot, every rollout ended as it should, every receipt verified');
  return violations.length === 0 ? 0 : 1;
};

const main = async (): Promise<number> => {
  const stopping = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.once(name, () => stopping.abort());
  const work = await mkdtemp(join(tmpdir(), 'sluice-vm-'));
  const code = await test(work, stopping.signal);
  if (code === 1) say(`the consoles' output and the drives are kept in ${work}`);
  else if (!values.keep) await rm(work, { recursive: true, force: true });
  return code;
};

process.exitCode = await main();
