/**
 * What a channel requires of a release, and what of it is met: each requirement with one sentence that people can act
 * on.
 */
import type { Id, Millis } from '#shared/ids.ts';
import { approvalsWords, countingApprovals } from '../approvals.ts';
import { durationWords } from '../words.ts';
import type { Channel } from './channel.ts';

/** The latest result of CI on one named check of a release. */
export type ReleaseCheck = {
  product: Id;
  version: string;
  check: Id;
  outcome: 'pass' | 'fail';
  /** Where people can read more. */
  link: string | null;
  at: Millis;
  by: string;
};
/** One person's approval of a release for one channel. */
export type ReleaseApproval = { product: Id; version: string; channel: Id; by: string; note: string; at: Millis };

export type PromotionFacts = {
  now: Millis;
  /** Compatibles of bundles without an SBOM. */
  withoutSbom: Id[];
  /**
   * When the first rollout of the release completed in the channel before, with at least one device that committed;
   * null: none has.
   */
  completedAt: Millis | null;
  checks: ReleaseCheck[];
  /** For this channel. */
  approvals: ReleaseApproval[];
  /** Who published the release, and who promotes it: their approvals do not count. */
  authors: string[];
  /** Operators who may approve at this moment. */
  active: string[];
};

export type Requirement = {
  kind: 'rollout' | 'soak' | 'check' | 'sbom' | 'approvals';
  /** Of the kind `check`: its name. */
  check?: Id;
  met: boolean;
  sentence: string;
};

/** Everything that the channel requires, in the order in which it is usually reached. */
export const requirementsOf = (channel: Channel, previous: Id | null, facts: PromotionFacts): Requirement[] => {
  const { requires } = channel;
  return [
    ...(requires.sbom ? [sbom(facts)] : []),
    ...requires.checks.map((name) => check(name, facts)),
    ...(requires.completedRollout ? [rollout(previous, facts)] : []),
    ...(requires.soakMs > 0 ? [soak(requires.soakMs, facts)] : []),
    ...(requires.approvals > 0 ? [approvals(requires.approvals, facts)] : []),
  ];
};

export const missingOf = (requirements: readonly Requirement[]): string[] =>
  requirements.filter(({ met }) => !met).map(({ sentence }) => sentence);

const sbom = ({ withoutSbom }: PromotionFacts): Requirement => ({
  kind: 'sbom',
  met: withoutSbom.length === 0,
  sentence:
    withoutSbom.length === 0
      ? 'every bundle carries an SBOM'
      : `there is no SBOM in the bundle for ${withoutSbom.join(', ')}`,
});

const check = (name: Id, { checks }: PromotionFacts): Requirement => {
  const word = checks.find((candidate) => candidate.check === name);
  if (word === undefined)
    return { kind: 'check', check: name, met: false, sentence: `check ${name} has not been reported` };
  const link = word.link === null ? '' : ` (${word.link})`;
  const met = word.outcome === 'pass';
  return { kind: 'check', check: name, met, sentence: `check ${name} ${met ? 'passed' : 'failed'}${link}` };
};

const rollout = (previous: Id | null, { completedAt }: PromotionFacts): Requirement => ({
  kind: 'rollout',
  met: completedAt !== null,
  sentence:
    completedAt === null
      ? `no rollout of it that devices committed has completed in ${previous ?? 'an earlier channel'}`
      : `a rollout of it completed in ${previous ?? 'an earlier channel'}`,
});

const soak = (soakMs: number, { completedAt, now }: PromotionFacts): Requirement => {
  const total = durationWords(soakMs);
  if (completedAt === null) return { kind: 'soak', met: false, sentence: `its soak of ${total} has not begun` };
  const left = completedAt + soakMs - now;
  return left <= 0
    ? { kind: 'soak', met: true, sentence: `its soak of ${total} is over` }
    : { kind: 'soak', met: false, sentence: `its soak of ${total} goes on for another ${durationWords(left)}` };
};

const approvals = (needed: number, facts: PromotionFacts): Requirement => {
  const counting = countingApprovals(
    facts.approvals.map(({ by }) => by),
    facts.authors,
    facts.active,
  );
  const met = counting.length >= needed;
  const others = met ? '' : `, from others than ${[...new Set(facts.authors)].join(', ')}`;
  return { kind: 'approvals', met, sentence: `approvals: ${approvalsWords(counting, needed)}${others}` };
};
