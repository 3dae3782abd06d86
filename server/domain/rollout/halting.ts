/**
 * Whether a rollout must halt, by the rule of its policy and by its gate; and how many more devices the judge lets each
 * group offer.
 */

import type { z } from 'zod';
import { type Millis, unreachable } from '#shared/ids.ts';
import type {
  EvidenceRule,
  JudgeRule,
  PercentageAfterMinimumRule,
  Policy,
  WavePercentageRule,
} from '#shared/policy.ts';
import { binMsOf, type OutcomeBin } from '../deployment/deployment.ts';
import type { HaltReason } from '../halt-reason.ts';
import { judge } from './judge.ts';
import { type Group, groupName, groupsOf, judgeInputOf, reachableOf, tallyOf, withoutAges } from './tally.ts';

/**
 * What the judge grants a group (its bins are without ages): at most so many devices between offer and outcome more;
 * Infinity where only the rate limits.
 */
export type Grant = { group: Group; atMost: number; risk: number; upperBound: number };
export type Ruling = { kind: 'halt'; reason: HaltReason } | { kind: 'go-on'; grants: Grant[] };

/** `bins` are without the acknowledged failures (see `setAside`). */
export const ruleOn = (policy: Policy, bins: OutcomeBin[], now: Millis): Ruling => {
  const rule: JudgeRule = policy.judge;
  switch (rule.rule) {
    case 'evidence':
      return ruleByEvidence(rule, groupsOf(bins), Math.floor(now / binMsOf(policy)));
    case 'wave-percentage':
      return ruleByPercentage(withoutAges(bins), (counts) => wavePercentage(rule, counts));
    case 'percentage-after-minimum':
      return ruleByPercentage(withoutAges(bins), (counts) => percentageAfterMinimum(rule, counts));
    default:
      return unreachable(rule);
  }
};

const ruleByEvidence = (rule: EvidenceRule, groups: Group[], nowBin: number): Ruling => {
  const grants: Grant[] = [];
  for (const group of groups) {
    const input = judgeInputOf(group.bins, nowBin);
    const verdict = judge(input, rule);
    if (verdict.kind === 'offer') {
      const { atMost, risk, upperBound } = verdict;
      grants.push({ group: { ...group, bins: withoutAges(group.bins) }, atMost, risk, upperBound });
      continue;
    }
    const tally = tallyOf(group.bins);
    const figures = {
      failed: tally.failed,
      offered: tally.healthy + tally.failed + tally.undecided,
      group: groupName(group),
    };
    const reason: HaltReason =
      verdict.why === 'evidence'
        ? { kind: 'evidence', ...figures, evidence: verdict.evidence }
        : { kind: 'budget', ...figures, excess: verdict.excess, budget: rule.budget };
    return { kind: 'halt', reason };
  }
  return { kind: 'go-on', grants };
};

/** The simple rules bound nothing but the failures themselves. */
const ruleByPercentage = (counts: OutcomeBin[], rule: (counts: OutcomeBin[]) => HaltReason | null): Ruling => {
  const reason = rule(counts);
  if (reason !== null) return { kind: 'halt', reason };
  const grants = groupsOf(counts).map((group) => ({ group, atMost: Number.POSITIVE_INFINITY, risk: 0, upperBound: 0 }));
  return { kind: 'go-on', grants };
};

/** More than `percent` of a wave's reachable devices failed, in any wave. */
const wavePercentage = (rule: z.infer<typeof WavePercentageRule>, bins: OutcomeBin[]): HaltReason | null => {
  for (const wave of new Set(bins.map((bin) => bin.wave))) {
    const tally = tallyOf(bins.filter((bin) => bin.wave === wave));
    const reason = percentageReason(tally.failed, reachableOf(tally), rule.percent);
    if (reason !== null) return reason;
  }
  return null;
};

/** More than `percent` of the rollout's decided devices failed, once `minimum` are decided. */
const percentageAfterMinimum = (
  rule: z.infer<typeof PercentageAfterMinimumRule>,
  bins: OutcomeBin[],
): HaltReason | null => {
  const tally = tallyOf(bins);
  const decided = tally.healthy + tally.failed;
  return decided < rule.minimum ? null : percentageReason(tally.failed, decided, rule.percent);
};

const percentageReason = (failed: number, among: number, limitPercent: number): HaltReason | null => {
  if (failed === 0) return null;
  const percent = (100 * failed) / among;
  return percent > limitPercent ? { kind: 'percentage', failed, decided: among, percent, limitPercent } : null;
};

/** The gate of one wave: how many of its reachable devices must have committed, and how many have. */
export type Gate = {
  wave: number;
  reachable: number;
  committed: number;
  failed: number;
  needed: number;
  neverHeard: number;
};

/** Guards against 0.55 * 100 = 55.00000000000001. */
const ROUNDING = 1e-9;

/** Where all activate together, a wave has done its part when it has installed. */
export const gateOf = (
  policy: Pick<Policy, 'gate'> & { activation?: Policy['activation'] },
  bins: OutcomeBin[],
  wave: number,
): Gate => {
  const tally = tallyOf(bins.filter((bin) => bin.wave === wave));
  const reachable = reachableOf(tally);
  return {
    wave,
    reachable,
    committed: tally.healthy + ((policy.activation ?? 'at-once') === 'at-once' ? 0 : tally.installed),
    failed: tally.failed,
    needed: Math.ceil(policy.gate.successShare * reachable - ROUNDING),
    neverHeard: tally['never-heard'],
  };
};
export const isMet = (gate: Gate): boolean => gate.committed >= gate.needed;
/** Even if everyone who has not failed commits, it is not enough. */
export const isOutOfReach = (gate: Gate): boolean => gate.reachable - gate.failed < gate.needed;
/**
 * No one of the wave was heard (docs/decisions/0003): that is no failure, but no evidence either, and the simple rules
 * would let the whole fleet follow. A wave of skipped and withdrawn devices only is another matter: it has nothing to
 * say.
 */
export const isUnheard = (gate: Gate): boolean => gate.reachable === 0 && gate.neverHeard > 0;
