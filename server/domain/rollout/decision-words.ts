/**
 * Decisions in words, for people who ask why: what was decided, and each of its reasons with the figures that made it
 * one.
 */
import { sentenceOf } from '../audit.ts';
import { durationWords, percentOf, plural, short, waveName } from '../words.ts';
import type { Blocker } from './blockers.ts';
import type { Decision } from './decision.ts';
import { explainRollout } from './explain.ts';
import type { Figures, GroupFigures } from './figures.ts';
import { isMet } from './halting.ts';
import type { Rollout } from './rollout.ts';
import type { RolloutFacts } from './rollout-events.ts';
import { groupName } from './tally.ts';

/** What a decision led to. */
export type Effect = { offered: number; skipped: number; withdrawn: number };
export type Reason = { about: string; sentence: string };

const holdOf = (rollout: Rollout['progress']) => (rollout.state === 'running' ? rollout.hold : null);
const metSince = (rollout: Rollout['progress']) => (rollout.state === 'running' ? rollout.gateSince : null);

/** Names for scripts: the kinds of its audit lines, and of what has no line. */
export const kindsOfDecision = ({ rollout, outcome }: Decision, effect: Effect): string[] => {
  const [before, after] = [rollout.progress, outcome.progress];
  const hold = holdOf(after);
  return [
    ...outcome.audit.map(({ kind }) => kind),
    ...(outcome.offers.length === 0 ? [] : [effect.offered + effect.skipped > 0 ? 'offered' : 'nobody-free']),
    ...(hold !== null && hold.kind !== holdOf(before)?.kind ? [`held-by-${hold.kind}`] : []),
    ...(metSince(before) === null && metSince(after) !== null ? ['gate-met'] : []),
    ...(isGateLost(rollout, outcome) ? ['gate-missed'] : []),
  ];
};

/** It was met, and is not any more, in the same wave of a rollout that still runs. */
const isGateLost = ({ progress: before }: Rollout, { progress: after }: Decision['outcome']): boolean =>
  before.state === 'running' &&
  after.state === 'running' &&
  before.wave === after.wave &&
  before.gateSince !== null &&
  after.gateSince === null;

/** What was decided, in sentences. */
export const sentenceOfDecision = (decision: Decision, effect: Effect): string => {
  const { rollout, facts, outcome, figures } = decision;
  const [before, after] = [rollout.progress, outcome.progress];
  const sentences = outcome.audit.map(sentenceOf);
  if (outcome.offers.length > 0) sentences.push(offerWords(outcome.offers, effect));
  if (effect.withdrawn > 0) sentences.push(`${plural(effect.withdrawn, 'offer')} withdrawn.`);
  const { gate } = figures;
  if (gate !== null && metSince(before) === null && metSince(after) !== null)
    sentences.push(`The gate of ${waveName(gate.wave)} is met: ${gateWords(gate, rollout)}.`);
  if (gate !== null && isGateLost(rollout, outcome))
    sentences.push(`The gate of ${waveName(gate.wave)} is not met any more: ${gateWords(gate, rollout)}.`);
  if (after.state === 'running' && after.hold !== null && after.hold.kind !== holdOf(before)?.kind)
    sentences.push(explainRollout({ ...rollout, progress: after }, facts.now));
  if (sentences.length === 0 && after.state === 'running')
    sentences.push(explainRollout({ ...rollout, progress: after }, facts.now));
  return sentences.join(' ');
};

const offerWords = (offers: Decision['outcome']['offers'], { offered, skipped }: Effect): string => {
  const allowed = offers.reduce((sum, { atMost }) => sum + atMost, 0);
  const groups = [...new Set(offers.map((offer) => groupName(offer)))].join(', ');
  const ran =
    skipped === 0 ? '' : ` ${plural(skipped, 'device')} skipped: ${skipped === 1 ? 'it runs' : 'they run'} it already.`;
  if (offered === 0)
    return skipped > 0
      ? ran.trimStart()
      : `It may offer to ${plural(allowed, 'device')} in ${groups}, and none of them is free.`;
  const of = offered < allowed ? ` (${allowed} were allowed)` : '';
  return `Offered to ${plural(offered, 'device')} in ${groups}${of}.${ran}`;
};

/** Where all activate together, a device has done its part when it has installed. */
const gateWords = ({ committed, reachable, needed }: NonNullable<Figures['gate']>, { policy }: Rollout): string =>
  `${committed} of ${plural(reachable, 'reachable device')} committed${policy.activation === 'at-once' ? '' : ' or wait installed'}, where ${needed} must`;

/** Everything that bears on what the rollout does next, each with its figures. */
export const reasonsOf = (
  rollout: Rollout,
  facts: Pick<RolloutFacts, 'now' | 'windows'>,
  figures: Figures,
  blockers: readonly Blocker[],
): Reason[] => [
  ...figures.groups.flatMap((group) => groupReasons(rollout, group)),
  ...ruleReasons(rollout, figures),
  ...acknowledgedReasons(figures),
  ...gateReasons(rollout, figures, facts.now),
  ...limitReasons(rollout, figures),
  ...timeReasons(rollout, facts),
  ...blockers.map(({ rollout: other, devices }) => ({
    about: 'priority',
    sentence: `${plural(devices, 'device')} that it plans for ${devices === 1 ? 'is' : 'are'} with rollout ${other}, which has them or comes first`,
  })),
];

/** h, x, undecided and n, and what the judge makes of them: E, pU, risk, m. */
const groupReasons = ({ policy, progress }: Rollout, group: GroupFigures): Reason[] => {
  const about = groupName(group);
  const rest = [
    [group.waiting, 'planned'],
    [group.planned - group.waiting, 'planned in waves that are not open'],
    [group.unaccepted, 'offered and not answered'],
    [group.installed, 'installed and told to wait'],
    [group.neverHeard, 'never heard'],
  ] as const;
  const others = rest.filter(([devices]) => devices > 0).map(([devices, what]) => `${devices} ${what}`);
  const counts = `h = ${group.healthy} healthy, x = ${group.failed} failed, ${group.undecided} undecided: n = ${group.judged}${others.length === 0 ? '' : `; beside them ${others.join(', ')}`}`;
  if (policy.judge.rule !== 'evidence' || group.judge === null) return [{ about, sentence: counts }];
  const { limit, alpha, budget, delta } = policy.judge;
  const { evidence, upperBound, risk, grants } = group.judge;
  const room = grants === null ? null : Math.max(0, grants - group.unaccepted);
  return [
    { about, sentence: counts },
    {
      about,
      sentence: `E = ${short(evidence)} to 1 that more than ${percentOf(limit)} fail; it halts from 1/alpha = ${short(1 / alpha)} to 1`,
    },
    {
      about,
      sentence: `x - ${percentOf(limit)} of n = ${short(group.failed - limit * group.judged)}; it halts beyond ${short(budget - 1)}, one less than the budget`,
    },
    {
      about,
      sentence: `pU = ${percentOf(upperBound)}: the highest failure rate that is still plausible (${percentOf(1 - delta)} confidence); with it risk = ${short(risk)} of a budget of ${short(budget)}`,
    },
    {
      about,
      sentence:
        room === null
          ? 'm has no bound: the evidence of health is good enough that only the rate limits offers'
          : `m = ${plural(grants ?? 0, 'device')} may be offered beyond those that accepted${group.unaccepted === 0 ? '' : `, and ${group.unaccepted} of these have an offer`}: ${moreWords(progress.state, room, evidence >= 1 / alpha)}`,
    },
  ];
};

/** What the judge grants is one thing, whether anything is offered at all another. */
const moreWords = (state: Rollout['progress']['state'], room: number, halts: boolean): string => {
  if (state !== 'running') return `none, since it is ${state}`;
  if (halts) return 'none, since it halts';
  return room === 0 ? 'no more now' : `${room} more now`;
};

/** The simple rules look at no group. */
const ruleReasons = ({ policy: { judge } }: Rollout, { groups, gate }: Figures): Reason[] => {
  const about = 'judge';
  if (judge.rule === 'wave-percentage') {
    const so = gate === null ? '' : `; in ${waveName(gate.wave)} ${gate.failed} of ${gate.reachable} did`;
    return [
      { about, sentence: `it halts when more than ${judge.percent} % of a wave's reachable devices failed${so}` },
    ];
  }
  if (judge.rule !== 'percentage-after-minimum') return [];
  const failed = groups.reduce((sum, group) => sum + group.failed, 0);
  const decided = groups.reduce((sum, group) => sum + group.failed + group.healthy, 0);
  const sentence = `it halts when more than ${judge.percent} % of the decided devices failed and at least ${judge.minimum} are decided; ${failed} of ${decided} did`;
  return [{ about, sentence }];
};

const acknowledgedReasons = ({ acknowledged: { failed, neverHeard } }: Figures): Reason[] =>
  failed + neverHeard === 0
    ? []
    : [
        {
          about: 'acknowledged',
          sentence: `${plural(failed, 'failure')} and ${neverHeard} never heard do not count: a person acknowledged them`,
        },
      ];

const gateReasons = (rollout: Rollout, { gate }: Figures, now: number): Reason[] => {
  if (gate === null) return [];
  const { policy, waveSizes, progress } = rollout;
  const { successShare, soakMs } = policy.gate;
  const runs = progress.state === 'running';
  const since = !runs ? 'met' : gate.since === null ? 'met just now' : `met for ${durationWords(now - gate.since)}`;
  const opens = `opens when it has been met for ${durationWords(soakMs)}`;
  const next = `${waveName(gate.wave + 1)} ${runs ? opens : `does not open while it is ${progress.state}`}`;
  const then = gate.wave + 1 >= waveSizes.length ? 'no wave follows it' : next;
  const sentence = `${waveName(gate.wave)} of ${waveSizes.length}: ${gateWords(gate, rollout)} (${percentOf(successShare)}), ${isMet(gate) ? since : 'not met'}; ${then}`;
  return [{ about: 'gate', sentence }];
};

const limitReasons = ({ policy: { limits } }: Rollout, { atRisk, starts }: Figures): Reason[] => [
  {
    about: 'limits',
    sentence: `${plural(atRisk, 'device')} between offer and outcome, where at most ${limits.atRiskMax} may be`,
  },
  {
    about: 'limits',
    sentence: `${starts.left} of the ${plural(starts.perWindow, 'offer')} that may start in ${durationWords(starts.windowMs)} are left (${limits.startsPerMinute} a minute)`,
  },
];

const timeReasons = (
  { policy, activatedAt, endBy }: Rollout,
  { now, windows }: Pick<RolloutFacts, 'now' | 'windows'>,
): Reason[] => {
  const reasons = (windows ?? []).map(({ cohort, open, opensAt }) => ({
    about: 'window',
    sentence: `${cohort}: ${open ? 'open' : opensAt === null ? 'closed' : `opens in ${durationWords(opensAt - now)} (${new Date(opensAt).toISOString()})`}`,
  }));
  if (policy.activation !== 'at-once') {
    const when =
      policy.activation === 'on-command' ? 'when a person says so' : `at ${new Date(policy.activation).toISOString()}`;
    const said = activatedAt === undefined ? '' : `; told to at ${new Date(activatedAt).toISOString()}`;
    reasons.push({ about: 'activation', sentence: `devices install and activate ${when}${said}` });
  }
  if (endBy !== undefined)
    reasons.push({
      about: 'end',
      sentence: now < endBy ? `its time is over in ${durationWords(endBy - now)}` : 'its time is over',
    });
  return reasons;
};
