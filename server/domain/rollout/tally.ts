/**
 * Outcome bins, summed the ways that judge, gate and offers need them. Failures that a person acknowledged are set
 * aside here, once for all.
 */
import type { Id } from '#shared/ids.ts';
import type { OutcomeBin, OutcomeClass } from '../deployment/deployment.ts';
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

const isOfGroup = (a: { cohort: Id; compatible: Id }, b: { cohort: Id; compatible: Id }): boolean =>
  a.cohort === b.cohort && a.compatible === b.compatible;

/**
 * How many of each outcome, in bins without any age: only the judge's rule of evidence needs ages, and they make the
 * bins many. Those that follow one another become one, and in the order of the store that is all there is to do.
 */
export const withoutAges = (bins: OutcomeBin[]): OutcomeBin[] => {
  const merged: OutcomeBin[] = [];
  let last: OutcomeBin | undefined;
  for (const bin of bins) {
    if (last !== undefined && last.outcome === bin.outcome && last.wave === bin.wave && isOfGroup(last, bin)) {
      last.devices += bin.devices;
      continue;
    }
    last = { ...bin, startBin: null, delayBins: null };
    merged.push(last);
  }
  return merged;
};

/**
 * Devices that can still say, or have said, how it went: everyone but the skipped, the withdrawn and the never heard.
 */
export const reachableOf = (tally: Tally): number =>
  tally.planned + tally.unaccepted + tally.undecided + tally.installed + tally.healthy + tally.failed;

/** What can be acknowledged, and where an entry counts it. */
const COUNTED = { failed: 'failed', 'never-heard': 'neverHeard' } as const;
type Counted = keyof typeof COUNTED;
const isCounted = (outcome: OutcomeClass): outcome is Counted => outcome in COUNTED;
const keyOf = (of: { cohort: Id; compatible: Id; wave: number }): string => `${of.wave} ${groupName(of)}`;

/** The bins without what was acknowledged. A device that turned out well since leaves nothing to set aside. */
export const setAside = (bins: OutcomeBin[], acknowledged: Acknowledged[]): OutcomeBin[] => {
  if (acknowledged.length === 0) return bins;
  const left = new Map(acknowledged.map((entry) => [keyOf(entry), { ...entry }]));
  return bins.map((bin) => {
    const entry = left.get(keyOf(bin));
    if (entry === undefined || !isCounted(bin.outcome)) return bin;
    const aside = Math.min(bin.devices, entry[COUNTED[bin.outcome]]);
    entry[COUNTED[bin.outcome]] -= aside;
    return aside === 0 ? bin : { ...bin, devices: bin.devices - aside };
  });
};

/** Every failure, and every device never heard, that there is now: what a person acknowledges by resuming. */
export const toAcknowledge = (bins: OutcomeBin[]): Acknowledged[] => {
  const entries = new Map<string, Acknowledged>();
  for (const bin of bins) {
    const { cohort, compatible, wave, outcome, devices } = bin;
    if (!isCounted(outcome)) continue;
    const entry = entries.get(keyOf(bin)) ?? { cohort, compatible, wave, failed: 0, neverHeard: 0 };
    entry[COUNTED[outcome]] += devices;
    entries.set(keyOf(bin), entry);
  }
  return [...entries.values()];
};

/** The failures that a person named, and beside them every device never heard. */
export const withNeverHeard = (failures: readonly Acknowledged[], bins: OutcomeBin[]): Acknowledged[] => {
  const named = new Map(failures.map((entry) => [keyOf(entry), entry]));
  return toAcknowledge(bins)
    .map((all) => ({ ...(named.get(keyOf(all)) ?? { ...all, failed: 0 }), neverHeard: all.neverHeard }))
    .filter(({ failed, neverHeard }) => failed + neverHeard > 0);
};

/**
 * What is left of what was acknowledged once some turned out well after all, or spoke: otherwise as many new ones would
 * be excused. The very same array when nothing changed.
 */
export const stillToAcknowledge = (acknowledged: Acknowledged[], bins: OutcomeBin[]): Acknowledged[] => {
  const present = new Map(toAcknowledge(bins).map((entry) => [keyOf(entry), entry]));
  const left = acknowledged.map((entry) => {
    const { failed, neverHeard } = present.get(keyOf(entry)) ?? { failed: 0, neverHeard: 0 };
    return { ...entry, failed: Math.min(entry.failed, failed), neverHeard: Math.min(entry.neverHeard, neverHeard) };
  });
  const isSame = left.every(
    ({ failed, neverHeard }, index) =>
      failed === acknowledged[index]?.failed && neverHeard === acknowledged[index].neverHeard,
  );
  return isSame ? acknowledged : left.filter(({ failed, neverHeard }) => failed + neverHeard > 0);
};

/** In the order in which they first appear, which is the store's and stable. */
export const groupsOf = (bins: OutcomeBin[]): Group[] => {
  const groups = new Map<string, Group>();
  let group: Group | undefined;
  for (const bin of bins) {
    if (group === undefined || !isOfGroup(group, bin)) {
      const { cohort, compatible } = bin;
      group = groups.get(groupName(bin)) ?? { cohort, compatible, bins: [] };
      groups.set(groupName(bin), group);
    }
    group.bins.push(bin);
  }
  return [...groups.values()];
};

/**
 * What the judge sees of a group at the time bin `nowBin`. Unaccepted devices are not in it: their offer was never
 * acted on.
 */
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
