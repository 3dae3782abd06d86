/**
 * Which device is in which wave: frozen when a rollout is planned, by a stable hash, so that the same device is not
 * always the canary.
 */
import type { Id } from '#shared/ids.ts';
import type { CohortPlan, WaveSize } from '#shared/policy.ts';

type WaveDevice = { id: Id; compatible: Id };
/** A cohort with its members, already reduced to those that the release can run on. */
export type WaveCohort = { plan: CohortPlan; devices: WaveDevice[] };

export type Placement = {
  device: Id;
  cohort: Id;
  compatible: Id;
  /** Counted over the whole rollout, from 0. */
  wave: number;
  /** Order within the wave, from 0. */
  position: number;
};
export type WavePlan = {
  /** In order of wave, then position. */
  placements: Placement[];
  /** Devices per wave. A wave that would be empty is left out. */
  waveSizes: number[];
  /** Devices that no wave takes, because the waves of their cohorts end before 100 %. */
  left: Id[];
};

/** MurmurHash3's last step: spreads every input bit over the whole word. */
const mix = (word: number): number => {
  let hash = word;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
};
/** FNV-1a over the UTF-16 code units, then mixed: 32 bits. */
const fnv1a = (text: string, basis: number): number => {
  let hash = basis;
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x0100_0193);
  return mix(hash);
};

/**
 * A device's place in the queue of one rollout: 53 bits, the same on every machine and in every version. Not for
 * security: a person who names devices could choose their place, which gains nothing.
 */
export const queueHash = (seed: string, device: string): number => {
  const text = `${seed}\n${device}`;
  return (fnv1a(text, 0x811c_9dc5) >>> 11) * 2 ** 32 + fnv1a(text, 0x9e37_79b9);
};

/**
 * Where a cumulative size ends among `total` devices. A share is rounded up, so that no wave of a small cohort is
 * empty.
 */
const endOf = (size: WaveSize, total: number): number =>
  Math.min(total, 'count' in size ? size.count : Math.ceil((size.percent * total) / 100 - 1e-9));

/**
 * The first wave that can take no one, whatever the size of its cohort: one that is no larger than a wave before it in
 * the same unit. Sizes are cumulative, so this is someone who meant otherwise.
 */
export const waveWithoutGrowth = (waves: readonly WaveSize[]): WaveSize | undefined => {
  const last = { count: 0, percent: 0 };
  return waves.find((size) => {
    const [unit, now] = 'count' in size ? (['count', size.count] as const) : (['percent', size.percent] as const);
    const grows = now > last[unit];
    last[unit] = now;
    return !grows;
  });
};

/**
 * Cohorts in order, the waves of each in order, sizes cumulative within the cohort. A device in several cohorts belongs
 * to the first that takes it. `seed` is the rollout's id.
 */
export const planWaves = (cohorts: WaveCohort[], seed: string): WavePlan => {
  const taken = new Set<Id>();
  const placements: Placement[] = [];
  const waveSizes: number[] = [];
  for (const { plan, devices } of cohorts) {
    const queue = queueOf(devices, taken, seed);
    let begin = 0;
    for (const size of plan.waves) {
      const end = Math.max(begin, endOf(size, queue.length));
      if (end === begin) continue;
      const wave = waveSizes.length;
      queue.slice(begin, end).forEach(({ id, compatible }, position) => {
        placements.push({ device: id, cohort: plan.cohort, compatible, wave, position });
        taken.add(id);
      });
      waveSizes.push(end - begin);
      begin = end;
    }
  }
  const left = new Set(cohorts.flatMap(({ devices }) => devices.map(({ id }) => id)).filter((id) => !taken.has(id)));
  return { placements, waveSizes, left: [...left] };
};

/** Devices not taken yet, each once, in the order of their hash; the id decides between equal hashes. */
const queueOf = (devices: WaveDevice[], taken: Set<Id>, seed: string): WaveDevice[] => {
  const free = new Map(devices.filter(({ id }) => !taken.has(id)).map((device) => [device.id, device]));
  return [...free.values()]
    .map((device) => ({ device, hash: queueHash(seed, device.id) }))
    .sort((a, b) => a.hash - b.hash || (a.device.id < b.device.id ? -1 : 1))
    .map(({ device }) => device);
};
