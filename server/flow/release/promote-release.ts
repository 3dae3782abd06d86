/**
 * Promotion: what CI and people say of a release, what a channel requires of it, and the step from one channel to the
 * next.
 */

import { countingApprovals } from '#server/domain/approvals.ts';
import { auditLine } from '#server/domain/audit.ts';
import { type Channel, findChannel } from '#server/domain/release/channel.ts';
import {
  missingOf,
  type ReleaseApproval,
  type ReleaseCheck,
  type Requirement,
  requirementsOf,
} from '#server/domain/release/promotion.ts';
import type { ReleaseRecord } from '#server/store/catalogue.ts';
import type { Store } from '#server/store/store.ts';
import { type Id, releaseRef } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { everyPage } from '../every-page.ts';

type Named = { product: Id; version: string };

export type PromotionDeps = {
  store: Pick<
    Store,
    | 'getRelease'
    | 'saveCheck'
    | 'approveRelease'
    | 'getReleaseEvidence'
    | 'listRolloutsOf'
    | 'countDeployments'
    | 'listOperators'
  >;
  channels: readonly Channel[];
  now: () => number;
};

export const noChannel = (channels: readonly Channel[], wanted: Id) =>
  refuse('invalid-request', `there is no channel ${wanted}; there are: ${channels.map(({ name }) => name).join(', ')}`);

/** A release of which something may still be said. Refusals: `not-found`, `conflict` (withdrawn). */
export const findOpenRelease = async (
  store: Pick<Store, 'getRelease'>,
  { product, version }: Named,
): Promise<Result<ReleaseRecord>> => {
  const name = releaseRef(product, version);
  const release = await store.getRelease(product, version);
  if (release === undefined) return refuse('not-found', `there is no release ${name}`);
  return release.progress.state === 'withdrawn'
    ? refuse('conflict', `${name} was withdrawn: ${release.progress.reason}`)
    : accept(release);
};

/**
 * CI says how a named check of a release ended; its latest result counts. Refusals: `not-found`, `conflict` (withdrawn,
 * too many checks).
 */
export const reportCheck = async (
  deps: PromotionDeps,
  input: Named & { check: Id; outcome: 'pass' | 'fail'; link: string | null; by: string },
): Promise<Result<ReleaseRecord>> => {
  const release = await findOpenRelease(deps.store, input);
  if (!release.ok) return release;
  const word = { ...input, at: deps.now() };
  const saved = await deps.store.saveCheck(word, auditLine({ ...word, kind: 'release-checked' }));
  if (saved === 'full') return refuse('conflict', 'there are as many checks of this release as there can be');
  return release;
};

/**
 * One person approves a release for a channel. Repeating it is answered with what is there. Refusals: `not-found`,
 * `conflict` (withdrawn, there already), `invalid-request` (no such channel), `forbidden` (its publisher).
 */
export const approveRelease = async (
  deps: PromotionDeps,
  input: Named & { channel: Id; note: string; by: string },
): Promise<Result<ReleaseRecord>> => {
  if (findChannel(deps.channels, input.channel) === undefined) return noChannel(deps.channels, input.channel);
  const release = await findOpenRelease(deps.store, input);
  if (!release.ok) return release;
  const name = releaseRef(input.product, input.version);
  if (isIn(release.value, input.channel)) return refuse('conflict', `${name} is in ${input.channel} already`);
  if (publishersOf(release.value).includes(input.by)) {
    return refuse('forbidden', `${input.by} published ${name}: someone else must approve it`);
  }
  const approval = { ...input, at: deps.now() };
  await deps.store.approveRelease(approval, auditLine({ ...approval, kind: 'release-approved' }));
  return release;
};

export type Readiness = {
  release: ReleaseRecord;
  channels: { channel: Id; staged: boolean; requirements: Requirement[] }[];
  checks: ReleaseCheck[];
  approvals: ReleaseApproval[];
};

/** What every channel requires of a release, and what of it is met. Refusal: `not-found`. */
export const readinessOf = async (deps: PromotionDeps, input: Named): Promise<Result<Readiness>> => {
  const release = await deps.store.getRelease(input.product, input.version);
  if (release === undefined)
    return refuse('not-found', `there is no release ${releaseRef(input.product, input.version)}`);
  const evidence = await deps.store.getReleaseEvidence(input.product, input.version);
  const channels: Readiness['channels'] = [];
  for (const { name } of deps.channels) {
    const { requirements } = await weigh(deps, release, name, []);
    channels.push({ channel: name, staged: isIn(release, name), requirements });
  }
  return accept({ release, channels, ...evidence });
};

/**
 * Whether `by` may put the release into the channel. The value says whose approvals counted.
 * Refusals: `invalid-request` (no such channel), `requirements-unmet` with everything that is missing.
 */
export const checkRequirements = async (
  deps: PromotionDeps,
  release: ReleaseRecord,
  input: { channel: Id; by: string },
): Promise<Result<{ approvedBy: string[] }>> => {
  if (findChannel(deps.channels, input.channel) === undefined) return noChannel(deps.channels, input.channel);
  const { requirements, approvedBy } = await weigh(deps, release, input.channel, [input.by]);
  const missing = missingOf(requirements);
  if (missing.length === 0) return accept({ approvedBy });
  const name = releaseRef(release.product, release.version);
  return refuse('requirements-unmet', `${name} may not go to ${input.channel} yet: ${missing.join('; ')}`);
};

/** `promoters`: who wants to put it there now, if anyone does. */
const weigh = async (
  deps: PromotionDeps,
  release: ReleaseRecord,
  name: Id,
  promoters: string[],
): Promise<{ requirements: Requirement[]; approvedBy: string[] }> => {
  const found = findChannel(deps.channels, name);
  if (found === undefined) return { requirements: [], approvedBy: [] };
  const { channel, previous } = found;
  const { checks, approvals } = await deps.store.getReleaseEvidence(release.product, release.version);
  const facts = {
    now: deps.now(),
    withoutSbom: release.bundles
      .filter(({ manifest }) => manifest.attachments.every(({ kind }) => kind !== 'sbom'))
      .map(({ compatible }) => compatible),
    completedAt:
      previous !== null && channel.requires.completedRollout ? await completedAt(deps, release, previous.name) : null,
    checks,
    approvals: approvals.filter((approval) => approval.channel === name),
    authors: [...new Set([...publishersOf(release), ...promoters])],
    active: await activeOperators(deps.store),
  };
  const approvedBy = countingApprovals(
    facts.approvals.map(({ by }) => by),
    facts.authors,
    facts.active,
  );
  return { requirements: requirementsOf(channel, previous?.name ?? null, facts), approvedBy };
};

/** A rollout that completes without anyone having committed has proven nothing. */
const completedAt = async (deps: PromotionDeps, release: ReleaseRecord, channel: Id): Promise<number | null> => {
  let first: number | null = null;
  for (const { plan, progress } of await deps.store.listRolloutsOf(release.product, release.version)) {
    if (plan.channel !== channel || progress.state !== 'completed') continue;
    const counts = await deps.store.countDeployments(plan.id);
    if (!counts.some(({ state, devices }) => state === 'committed' && devices > 0)) continue;
    first = Math.min(first ?? progress.at, progress.at);
  }
  return first;
};

/** Anyone who may approve at this moment: operators and administrators who are not revoked. */
export const activeOperators = async (store: Pick<Store, 'listOperators'>): Promise<string[]> => {
  const active: string[] = [];
  const operators = everyPage(
    (page) => store.listOperators(page),
    ({ name }) => name,
  );
  for await (const { name, role, revokedAt } of operators) {
    if (revokedAt === null && (role === 'admin' || role === 'operator')) active.push(name);
  }
  return active;
};

const publishersOf = (release: ReleaseRecord): string[] => [
  ...new Set(release.bundles.map(({ acceptedBy }) => acceptedBy)),
];

const isIn = ({ progress }: ReleaseRecord, channel: Id): boolean =>
  progress.state === 'staged' && progress.channels.includes(channel);
