/** Outcome bins, summed the ways that judge, gate and offers need them. Failures that a person acknowledged are set aside here, once for all. */
import type { Id } from '#shared/ids.ts';
import type { OutcomeBin, OutcomeClass } from './deployment.ts';
import type { JudgeInput } from './judge.ts';
import type { Acknowledged } from './rollout.ts';

export type Tally = Record<OutcomeClass, number>;

/** The devices of one cohort and compatible: what one judge judges. */
export type Group = { cohort: Id; compatible: Id; bins: OutcomeBin[] };
export const groupName = (group: { cohort: Id; compatible: Id }): string => `${group.cohort}/${group.compatible}`;

export const tallyOf = (bins: OutcomeBin[]): Tally => {
  const tally: Tally = {
    planned: 0,
    unaccepted: 0,
    undecided: 0,
    installed: 0,
    healthy: 0,
    failed: 0,
    'never-heard': 0,
    withdrawn: 0,
    skipped: 0,
  };
  for (const bin of bins) tally[bin.outcome] += bin.devices;
  return tally;
};

/** Devices that can still say, or have said, how it went: everybody but the skipped, the withdrawn and the never heard. */
export const reachableOf = (tally: Tally): number =>
  tally.planned + tally.unaccepted + tally.undecided + tally.installed + tally.healthy + tally.failed;

/** The bins without the acknowledged failures. One that turned out well since leaves nothing to set aside. */
export const setAside = (bins: OutcomeBin[], acknowledged: Acknowledged[]): OutcomeBin[] => {
  if (acknowledged.length === 0) return bins;
  const left = new Map(acknowledged.map((entry) => [`${entry.wave} ${groupName(entry)}`, entry.failed]));
  return bins.map((bin) => {
    const key = `${bin.wave} ${groupName(bin)}`;
    const aside = bin.outcome === 'failed' ? Math.min(bin.devices, left.get(key) ?? 0) : 0;
    if (aside === 0) return bin;
    left.set(key, left.get(key)! - aside);
    return { ...bin, devices: bin.devices - aside };
  });
};

/** Every failure that there is now, as what a person acknowledges by resuming. */
export const failuresOf = (bins: OutcomeBin[]): Acknowledged[] => {
  const failures = new Map<string, Acknowledged>();
  for (const { cohort, compatible, wave, outcome, devices } of bins) {
    if (outcome !== 'failed') continue;
    const key = `${wave} ${groupName({ cohort, compatible })}`;
    const known = failures.get(key);
    if (known) known.failed += devices;
    else failures.set(key, { cohort, compatible, wave, failed: devices });
  }
  return [...failures.values()];
};

/**
 * What is left of the acknowledged failures once some turned out well after all: otherwise as many new ones would be
 * excused. The very same array when all are still failures.
 */
export const stillFailing = (acknowledged: Acknowledged[], bins: OutcomeBin[]): Acknowledged[] => {
  const failing = new Map(failuresOf(bins).map((entry) => [`${entry.wave} ${groupName(entry)}`, entry.failed]));
  const left = acknowledged.map((entry) => ({
    ...entry,
    failed: Math.min(entry.failed, failing.get(`${entry.wave} ${groupName(entry)}`) ?? 0),
  }));
  if (left.every(({ failed }, index) => failed === acknowledged[index]?.failed)) return acknowledged;
  return left.filter(({ failed }) => failed > 0);
};

/** In the order in which they first appear, which is the store's and stable. */
export const groupsOf = (bins: OutcomeBin[]): Group[] => {
  const groups = new Map<string, Group>();
  for (const bin of bins) {
    const name = groupName(bin);
    const known = groups.get(name);
    if (known) known.bins.push(bin);
    else groups.set(name, { cohort: bin.cohort, compatible: bin.compatible, bins: [bin] });
  }
  return [...groups.values()];
};

/** What the judge sees of a group at the time bin `nowBin`. Unaccepted devices are not in it: their offer was never acted on. */
export const judgeInputOf = (bins: OutcomeBin[], nowBin: number): JudgeInput => {
  const input: JudgeInput = { healthy: 0, failed: 0, undecided: [], confirmed: [] };
  for (const { outcome, startBin, delayBins, devices } of bins) {
    const ageBins = Math.max(0, nowBin - (startBin ?? nowBin));
    if (outcome === 'failed') input.failed += devices;
    if (outcome === 'undecided') input.undecided.push({ ageBins, devices });
    if (outcome === 'healthy') {
      input.healthy += devices;
      if (delayBins !== null) input.confirmed.push({ startAgeBins: ageBins, delayBins, devices });
    }
  }
  return input;
};
