/**
 * Why a rollout is where it is: its figures now, and each of its decisions from the inputs that were recorded with it.
 */
import type { z } from 'zod';
import { BY_SERVER, parseAuditEvent } from '#server/domain/audit.ts';
import { coolDownWords } from '#server/domain/deployment/retry.ts';
import { type Decision, faultsOf, readRecord } from '#server/domain/rollout/decision.ts';
import { kindsOfDecision, reasonsOf, sentenceOfDecision } from '#server/domain/rollout/decision-words.ts';
import { type Figures, figuresOf } from '#server/domain/rollout/figures.ts';
import type { Rollout } from '#server/domain/rollout/rollout.ts';
import type { RolloutFacts } from '#server/domain/rollout/rollout-events.ts';
import type { KeptDecision } from '#server/store/decisions.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import { type DecisionInputs, DecisionView, type ExplanationView } from '#shared/explanation.ts';
import type { Id } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { readIndex } from '../device/device-history.ts';
import { blockersNow, unknownZones } from '../time/rollout-time.ts';
import { reportRollout } from './report-rollout.ts';
import { factsNow, type RunDeps } from './run-rollout.ts';

/** A decision writes few lines, but as many as there are batches of devices. */
const LINES_MAX = 1_000;

type Asked = { after?: string | undefined; limit: number; verify: boolean };

/** Decisions newest first; `after` is the number of the last one seen. Refusals: `not-found`, `invalid-request`. */
export const explainRollout = async (deps: RunDeps, id: Id, asked: Asked): Promise<Result<ExplanationView>> => {
  const before = readIndex(asked.after);
  if (!before.ok) return before;
  const record = await deps.store.getRollout(id);
  if (record === undefined) return refuse('not-found', `there is no rollout ${id}`);
  const { facts } = await factsNow(deps, record);
  const rollout: Rollout = { ...record.plan, progress: record.progress };
  const figures = figuresOf(rollout, facts);
  const waitsFor = record.progress.state === 'running' ? await blockersNow(deps, id) : [];
  // One more than asked for: the last of them too has one before it.
  const kept = await deps.store.listDecisions(id, { before: before.value, limit: asked.limit + 1 });
  const shown = kept.slice(0, asked.limit);
  // From the oldest on, since each is held against the one before it.
  const readable: (Readable | undefined)[] = [];
  for (const one of kept.toReversed()) readable.unshift(readKept(one, readable[0], asked.verify));
  const items: DecisionView[] = [];
  for (const [index, one] of shown.entries()) {
    const faults = asked.verify ? await verifyOne(deps.store, id, one, readable[index], kept[index + 1]) : null;
    items.push(viewOf(one, readable[index], faults));
  }
  // The newest of all must be the one that the rollout itself names.
  const [newest] = items;
  if (asked.verify && newest !== undefined && before.value === undefined && newest.sha256 !== record.decided)
    newest.faults?.push('the rollout names another one as its newest decision');
  const { explanation, coolingDown, refusing, sharing } = await reportRollout(deps, record);
  const cooling =
    coolingDown === undefined ? [] : [{ about: 'retries', sentence: coolDownWords(coolingDown, facts.now) }];
  const zones = (await unknownZones(deps.store, record.plan)).map((sentence) => ({ about: 'window', sentence }));
  const refused = refusing === undefined ? [] : [{ about: 'refusals', sentence: refusing }];
  const shared = sharing === undefined ? [] : [{ about: 'keys', sentence: sharing }];
  return accept({
    rollout: id,
    now: {
      at: facts.now,
      explanation,
      reasons: [...reasonsOf(rollout, facts, figures, waitsFor), ...zones, ...cooling, ...refused, ...shared],
      inputs: inputsOf(rollout, facts, figures),
      waitsFor,
    },
    items,
    faults: asked.verify ? faultsOfAll(record, items, before.value) : null,
    next: kept.length > asked.limit ? String(shown.at(-1)?.n) : null,
  });
};

const faultsOfAll = (
  { decided }: RolloutRecord,
  items: readonly DecisionView[],
  before: number | undefined,
): string[] =>
  decided !== undefined && items.length === 0 && before === undefined ? ['none of its decisions is there'] : [];

/** What of a decision is in its record. */
const Told = DecisionView.pick({
  by: true,
  kinds: true,
  sentence: true,
  reasons: true,
  inputs: true,
  waitsFor: true,
  previous: true,
});
type Told = z.infer<typeof Told>;
type Readable = { decision: Decision; told: Told; faults: string[] };

const UNREADABLE: Told = {
  by: null,
  kinds: ['unreadable'],
  sentence: 'Its record cannot be read.',
  reasons: [],
  inputs: null,
  waitsFor: [],
  previous: null,
};

/** Undefined where it cannot be read: a record may be anything by now, and so may be what is thrown about it. */
const readKept = (kept: KeptDecision, before: Readable | undefined, verify: boolean): Readable | undefined => {
  if (kept.record === null) return undefined;
  try {
    const decision = readRecord(kept.record);
    const { rollout, event, facts, figures, previous } = decision;
    const told = Told.parse({
      by: 'by' in event ? event.by : BY_SERVER,
      kinds: kindsOfDecision(decision, kept),
      sentence: sentenceOfDecision(decision, kept),
      reasons: reasonsOf(rollout, facts, figures, kept.blockers),
      inputs: inputsOf(rollout, facts, figures),
      waitsFor: kept.blockers,
      previous,
    });
    const faults = verify ? faultsOf(decision, before?.decision) : [];
    if (sha256Hex(kept.record) !== kept.sha256) faults.push('its record is not the one that was hashed');
    return { decision, told, faults };
  } catch {
    return undefined;
  }
};

const viewOf = (kept: KeptDecision, readable: Readable | undefined, faults: string[] | null): DecisionView => ({
  ...(readable?.told ?? UNREADABLE),
  decision: kept.n,
  at: kept.at,
  offered: kept.offered,
  skipped: kept.skipped,
  withdrawn: kept.withdrawn,
  sha256: kept.sha256,
  audit: Array.from({ length: kept.auditTo - kept.auditFrom }, (_, index) => kept.auditFrom + index),
  pruned: kept.pruned,
  faults,
});

/**
 * The record is the one that was hashed, follows the one before, leads to what was decided, and the audit log names it.
 */
const verifyOne = async (
  store: Pick<Store, 'readAudit'>,
  rollout: Id,
  kept: KeptDecision,
  readable: Readable | undefined,
  before: KeptDecision | undefined,
): Promise<string[]> => {
  const faults = readable?.faults ?? ['its record cannot be read'];
  const newest = before ?? (await prunedBefore(store, rollout, kept));
  if ((newest?.n ?? 0) !== kept.n - 1) faults.push('decisions before it are missing');
  if (readable === undefined) return faults;
  const { previous, outcome } = readable.decision;
  if (previous !== (newest?.sha256 ?? null)) faults.push('it names another decision as the one before it');
  if (outcome.audit.length > 0 || kept.offered > 0) {
    const lines = Math.min(LINES_MAX, Math.max(1, kept.auditTo - kept.auditFrom));
    const entries = await store.readAudit(kept.auditFrom - 1, lines);
    if (!entries.some(({ payload }) => parseAuditEvent(payload)?.decision === kept.sha256))
      faults.push('no line in the audit log names its digest');
  }
  return faults;
};

/** The newest of the decisions that were pruned, where the audit log says that they were. */
const prunedBefore = async (
  store: Pick<Store, 'readAudit'>,
  rollout: Id,
  { pruned }: KeptDecision,
): Promise<Pick<KeptDecision, 'n' | 'sha256'> | undefined> => {
  if (pruned === null) return undefined;
  const [entry] = await store.readAudit(pruned - 1, 1);
  const line = entry && parseAuditEvent(entry.payload);
  return line?.kind === 'decisions-pruned' && line.rollout === rollout
    ? { n: line.decisions, sha256: line.newest }
    : undefined;
};

const inputsOf = (rollout: Rollout, { windows }: RolloutFacts, figures: Figures): DecisionInputs => {
  const { policy, activatedAt, endBy } = rollout;
  const { judge, gate, limits } = policy;
  const { starts } = figures;
  return {
    rule: judge,
    evidenceToHalt: judge.rule === 'evidence' ? 1 / judge.alpha : null,
    groups: figures.groups,
    acknowledged: figures.acknowledged,
    limits: {
      atRisk: figures.atRisk,
      atRiskMax: limits.atRiskMax,
      startsPerMinute: limits.startsPerMinute,
      startsLeft: starts.left,
      startsPerWindow: starts.perWindow,
      startWindowMs: starts.windowMs,
    },
    gate: figures.gate === null ? null : { ...figures.gate, successShare: gate.successShare, soakMs: gate.soakMs },
    windows: windows ?? [],
    activation: { when: policy.activation, activatedAt: activatedAt ?? null },
    endBy: endBy ?? null,
    priority: policy.priority,
  };
};
