/**
 * The figures that a rollout is decided by, as docs/judge.md names them: what `rollout explain` shows, and what is
 * recorded with each decision.
 */
import type { Id, Millis } from '#shared/ids.ts';
import type { EvidenceRule } from '#shared/policy.ts';
import { binMsOf } from '../deployment/deployment.ts';
import { type Gate, gateOf } from './halting.ts';
import { EVIDENCE_MAX, logEvidence, offerBound, waitingOf } from './judge.ts';
import type { Acknowledged, Rollout } from './rollout.ts';
import type { RolloutFacts } from './rollout-events.ts';
import { startLimit, startsOf } from './rollout-run.ts';
import { type Group, groupsOf, judgeInputOf, setAside, stillToAcknowledge, tallyOf } from './tally.ts';

/**
 * What the judge makes of one group. `evidence` is E, capped. `grants`: m, devices that may be between offer and
 * outcome beyond those that have accepted; null where only the rate limits.
 */
type Weight = { evidence: number; upperBound: number; risk: number; grants: number | null };
/** `judge` is null under the simple rules, which weigh nothing. Counts are without what was acknowledged. */
export type GroupFigures = {
  cohort: Id;
  compatible: Id;
  planned: number;
  /** Of those planned, the ones in waves that are open. */
  waiting: number;
  unaccepted: number;
  /** h, x, those that accepted and have no outcome yet, and n, their sum. */
  healthy: number;
  failed: number;
  undecided: number;
  judged: number;
  installed: number;
  neverHeard: number;
  judge: Weight | null;
};
export type Figures = {
  groups: GroupFigures[];
  /** What a person acknowledged, and was set aside. */
  acknowledged: { failed: number; neverHeard: number };
  /** Devices between offer and outcome. */
  atRisk: number;
  /** Offers that may start before the window of the rate limit is over. */
  starts: { left: number; perWindow: number; windowMs: number };
  /** Of the present wave; `since`: when it was met. Null where no wave is open. */
  gate: (Gate & { since: Millis | null }) | null;
};

/** Pure: the same inputs, the same figures. */
export const figuresOf = (rollout: Rollout, facts: RolloutFacts): Figures => {
  const { policy, progress } = rollout;
  const known = 'acknowledged' in progress ? (progress.acknowledged ?? []) : [];
  const acknowledged: Acknowledged[] = stillToAcknowledge(facts.acknowledged ?? known, facts.bins);
  const bins = setAside(facts.bins, acknowledged);
  const total = tallyOf(bins);
  const nowBin = Math.floor(facts.now / binMsOf(policy));
  const rule = policy.judge.rule === 'evidence' ? policy.judge : undefined;
  const running = progress.state === 'running' ? progress : undefined;
  const { windowMs, perWindow } = startLimit(policy.limits.startsPerMinute);
  const starts = startsOf(rollout, running?.starts, total.planned, facts.now);
  return {
    groups: groupsOf(bins).map((group) => groupFigures(group, 'wave' in progress ? progress.wave : -1, rule, nowBin)),
    acknowledged: {
      failed: acknowledged.reduce((sum, entry) => sum + entry.failed, 0),
      neverHeard: acknowledged.reduce((sum, entry) => sum + entry.neverHeard, 0),
    },
    atRisk: total.unaccepted + total.undecided,
    starts: { left: Math.max(0, perWindow - Math.max(0, starts.planned - total.planned)), perWindow, windowMs },
    gate: 'wave' in progress ? { ...gateOf(policy, bins, progress.wave), since: running?.gateSince ?? null } : null,
  };
};

const groupFigures = (group: Group, waveLast: number, rule: EvidenceRule | undefined, nowBin: number): GroupFigures => {
  const tally = tallyOf(group.bins);
  const { planned, unaccepted, healthy, failed, undecided, installed } = tally;
  return {
    cohort: group.cohort,
    compatible: group.compatible,
    planned,
    waiting: tallyOf(group.bins.filter(({ wave }) => wave <= waveLast)).planned,
    unaccepted,
    healthy,
    failed,
    undecided,
    judged: healthy + failed + undecided,
    installed,
    neverHeard: tally['never-heard'],
    judge: rule === undefined ? null : weigh(group, rule, nowBin),
  };
};

const weigh = ({ bins }: Group, rule: EvidenceRule, nowBin: number): Weight => {
  const input = judgeInputOf(bins, nowBin);
  const judged = input.healthy + input.failed + input.undecided.reduce((sum, { devices }) => sum + devices, 0);
  const { atMost, risk, upperBound } = offerBound(input.failed, input.healthy, waitingOf(input), rule);
  return {
    evidence: Math.min(EVIDENCE_MAX, Math.exp(logEvidence(input.failed, judged, rule.limit))),
    upperBound,
    risk,
    grants: Number.isFinite(atMost) ? atMost : null,
  };
};
