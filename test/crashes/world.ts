/** The device that is explored, its server, and what is so of both at this moment. */
import type { Machine } from '#agent/deployment/machine.ts';
import type { Slots } from '#agent/domain/slots.ts';
import { signDesired } from '#server/trust/director.ts';
import { signerOf } from '#test/simulation/signers.ts';
import type { Process, Time } from '#test/simulation/time.ts';
import { type Kind, ROOT } from './device.ts';
import { DEVICE, type Wrap } from './life.ts';
import { type Disk, IDLE, type Mounted, type Step, type User } from './mount.ts';
import { makeRelease } from './releases.ts';
import { openServer } from './server.ts';
import { LOSSES, type Loss } from './volume.ts';

/** `killed`: nothing is lost, and the device does not boot. Otherwise the power fails, with this loss. */
export const DEATHS = ['killed', ...LOSSES] as const;
export type Death = 'killed' | Loss;

/** What is installed, and how that must end: wherever the device dies. */
export const SCENARIOS = { good: 'committed', unhealthy: 'reverted', 'bad-disk': 'failed' } as const;
export type Scenario = keyof typeof SCENARIOS;

export type Exploration = {
  kind: Kind;
  scenario: Scenario;
  /** How it dies at this point; none: it does not. */
  deaths: (point: number) => readonly Death[];
  /** It dies once more, after so many changes of each new life that is not the last; 0: it does not. */
  again?: (point: number) => number;
  /**
   * Nothing dies at the point: from there on the disk is so for as long as the device lives, which then dies so, if it
   * has not rebooted. In its next life the disk is well again. It may have given up meanwhile.
   */
  refuses?: Exclude<Disk, 'well'>;
  /** Ends after so many violations. */
  violationsMax?: number;
  /** A bug that is to be found. */
  plant?: { forgets?: (path: string) => boolean; wrap?: Wrap };
  /** After each point. */
  onProgress?: (point: number, found: Found) => void;
};

export type Found = { points: number; recoveries: number; lives: number; violations: string[] };

/** One life of its agent. */
export type Life = {
  process: Process;
  /** When it has started. */
  up: { machine: Machine; slots: Slots } | undefined;
  rebootBy: string[] | undefined;
  /** What was changed since the boot selector was, in this life; undefined: it was not. */
  sinceSelector: Step[] | undefined;
};

export type World = Awaited<ReturnType<typeof openWorld>>;
export const START = Date.UTC(2026, 0);

/** As the factory made it. */
export const openWorld = async (exploration: Exploration, realTime: Time, mounted: Mounted) => {
  const { kind, scenario } = exploration;
  const { volume, attach } = mounted;
  const first = await makeRelease(`${ROOT}/factory`, kind.kind, '1.0.0', true);
  const release = await makeRelease(`${ROOT}/factory`, kind.kind, '1.1.0', scenario !== 'unhealthy');
  const device = await kind.make(mounted, first);
  /** What looks at it from outside. */
  const quiet: User = { ...IDLE, runSync: device.runSync, run: (command) => device.run(command, () => false) };
  attach(quiet);
  await device.powerOn();
  volume.flushAll();
  const signer = signerOf(DEVICE);
  const times = { issuedAt: START, expires: START + 365 * 86_400_000 };
  const leaf = {
    type: 'sluice/desired/1' as const,
    device: DEVICE,
    seq: 1,
    ...times,
    instruction: release.instruction,
  };
  const [desired] = signDesired(signer, [leaf], times);
  const now = {
    /** A device that is put back to an earlier moment is put back in time, too. */
    lateMs: 0,
    where: 'the beginning',
    disk: 'well' as Disk,
    /** Before a change; true: it dies here. */
    onStep: (_step: Step): boolean => false,
    life: deadLife(),
  };
  const time: Time = { ...realTime, now: () => realTime.now() - now.lateMs };
  const server = openServer(time, desired!, release);
  const found: Found = { points: 0, recoveries: 0, lives: 0, violations: [] };
  return { exploration, realTime, time, volume, attach, quiet, device, first, release, signer, server, found, now };
};

export const newLife = (): Life => ({
  process: { name: DEVICE, dead: false },
  up: undefined,
  rebootBy: undefined,
  sinceSelector: undefined,
});
export const deadLife = (): Life => ({ ...newLife(), process: { name: DEVICE, dead: true } });
