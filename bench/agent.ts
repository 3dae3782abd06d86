/**
 * The agent as one file, and what it costs: file, start, memory, and installing images beside RAUC, SWUpdate and
 * Mender's client, as far as they are installed, in the same run with the same bytes, against the floor
 * (installers/floor.ts). Theirs are read from a local file, ours is fetched from a real server on the same machine.
 * Every slot is a file, and is read back to see that it was installed.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BenchOptions, type Figure, figure, skipped } from './figure.ts';
import { floor } from './installers/floor.ts';
import { type Install, type Installer, insist, type Measured, makeSlot } from './installers/measure.ts';
import { mender } from './installers/mender.ts';
import { makePayload, type Payload } from './installers/payload.ts';
import { rauc } from './installers/rauc.ts';
import { type Costs, openSite } from './installers/sluice.ts';
import { swupdate } from './installers/swupdate.ts';

export const name = 'agent';

const ROUNDS = 3;
/** What installing nothing takes: how much of the rest is not the payload's. */
const SMALL_BYTES = 100_000;

/** Medians of the rounds. */
export const run = async ({ measureMs, installMb }: BenchOptions): Promise<Figure[]> => {
  const work = await mkdtemp(join(tmpdir(), 'sluice-bench-'));
  try {
    const site = await openSite(work, Math.max(measureMs, 3_000));
    try {
      const installers = [floor, site.installer, rauc, swupdate, mender];
      const figures: Figure[] = [];
      for (const payload of await payloads(work, installMb))
        figures.push(...(await compare(payload, installers, work)));
      const absent = installers.flatMap(({ name: what, lacks }) => (lacks === undefined ? [] : [skipped(what, lacks)]));
      return [...costFigures(site.costs), ...figures, ...absent];
    } finally {
      await site.stop();
    }
  } finally {
    await rm(work, { recursive: true, force: true });
  }
};

const payloads = async (work: string, mb: number): Promise<Payload[]> => [
  await makePayload(work, { name: '0.1 MB', kind: 'text', bytes: SMALL_BYTES }),
  await makePayload(work, { name: `${mb} MB of noise`, kind: 'noise', bytes: mb * 1e6 }),
  await makePayload(work, { name: `${3 * mb} MB of text`, kind: 'text', bytes: 3 * mb * 1e6 }),
];

const costFigures = ({ fileBytes, startedMs, idleMB }: Costs): Figure[] => [
  figure('the file', fileBytes / 1e6, 'MB'),
  figure('start to agent-started', median(startedMs), 'ms'),
  figure('resident, connected and idle', median(idleMB), 'MB'),
];

/** Round by round, so that a machine that grows slower does so for all of them. */
const compare = async (payload: Payload, installers: Installer[], work: string): Promise<Figure[]> => {
  const slot = join(work, 'slot');
  const able: (Installer & { install: Install; rounds: Measured[] })[] = [];
  for (const installer of installers) {
    if (installer.lacks !== undefined) continue;
    const folder = join(work, `${installer.name}-${payload.bytes}`);
    await mkdir(folder);
    const install = await installer.prepare(payload, folder, slot).catch((error: unknown) => failed(installer, error));
    if (install !== undefined) able.push({ ...installer, install, rounds: [] });
  }
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const installer of able) {
      if (installer.lacks !== undefined) continue;
      await makeSlot(slot, payload.slotBytes);
      const measured = await installer.install().catch((error: unknown) => failed(installer, error));
      if (measured === undefined) continue;
      await insist(slot, payload);
      installer.rounds.push(measured);
    }
  }
  const floorMs = median(able[0]!.rounds.map(({ ms }) => ms));
  return able.flatMap(({ name, lacks, rounds }) => {
    const what = `${payload.name}: ${name}`;
    return lacks === undefined ? figuresOf(what, payload, rounds, floorMs) : [skipped(what, lacks)];
  });
};

/** Others' may not work here, for reasons of their own: there is a table without them. Ours must. */
const failed = (installer: Installer, error: unknown): undefined => {
  if (installer.name === 'floor' || installer.name === 'sluice') throw error;
  process.stderr.write(`\n${installer.name}: ${error instanceof Error ? error.message : String(error)}\n`);
  installer.lacks = 'it failed';
};

const figuresOf = (what: string, { bytes }: Payload, rounds: Measured[], floorMs: number): Figure[] => {
  const ms = median(rounds.map((round) => round.ms));
  const memory = rounds.flatMap(({ rssMB }) => (rssMB === null ? [] : [rssMB]));
  return [
    bytes === SMALL_BYTES ? figure(what, ms, 'ms') : figure(what, bytes / 1e3 / ms, 'MB/s', floorMs / ms),
    memory.length === 0
      ? skipped(`${what}, resident at most`, '/usr/bin/time not installed')
      : figure(`${what}, resident at most`, Math.max(...memory), 'MB'),
  ];
};

const median = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
