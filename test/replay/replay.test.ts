/** Recorded histories lead to the same decisions again, and would not if anything that decides were otherwise. */
import { globSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  type Decision,
  isWorthRecording,
  readRecord,
  recordOf,
  replayDecisions,
} from '#server/domain/rollout/decision.ts';
import { kindsOfDecision, reasonsOf, sentenceOfDecision } from '#server/domain/rollout/decision-words.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { decisionsIn, type KeptHistory, SCENARIOS } from './histories.ts';

const GOLDEN = join(import.meta.dirname, '../golden');
const load = (name: string): KeptHistory =>
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- written by record.ts
  JSON.parse(readFileSync(join(GOLDEN, `${name}.json`), 'utf8')) as KeptHistory;
const names = globSync('*.json', { cwd: GOLDEN }).map((file) => basename(file, '.json'));
const kindsIn = (history: KeptHistory): string[] =>
  decisionsIn(history).flatMap((decision, index) => kindsOfDecision(decision, history.decisions[index]!));

test('there is a golden history of every scenario, and of each kind of decision', () => {
  expect(names.toSorted()).toEqual(Object.keys(SCENARIOS).toSorted());
  const kinds = new Set(names.flatMap((name) => kindsIn(load(name))));
  expect([...kinds].toSorted()).toEqual(
    expect.arrayContaining([
      'failures-acknowledged',
      'gate-met',
      'gate-missed',
      'held-by-activation',
      'held-by-at-risk-limit',
      'held-by-gate',
      'held-by-judge',
      'held-by-window',
      'nobody-free',
      'offered',
      'rollout-aborted',
      'rollout-activated',
      'rollout-completed',
      'rollout-halted',
      'rollout-paused',
      'rollout-resumed',
      'rollout-started',
      'wave-opened',
    ]),
  );
});

describe.each(names)('%s', (name) => {
  const history = load(name);
  const decisions = decisionsIn(history);

  test('its recorded inputs lead to the same decisions', () => {
    expect(decisions.length).toBeGreaterThan(3);
    expect(replayDecisions(decisions)).toEqual([]);
  });

  test('each record is the one that was hashed, and names the one before', () => {
    for (const [index, { n, sha256, record }] of history.decisions.entries()) {
      expect(n).toBe(index + 1);
      expect(sha256Hex(JSON.stringify(record))).toBe(sha256);
      expect(decisions[index]?.previous).toBe(history.decisions[index - 1]?.sha256 ?? null);
      expect(recordOf(readRecord(JSON.stringify(record)))).toBe(JSON.stringify(record));
    }
  });

  test('a decision that is left out is missed', () => {
    // The one that opened, stopped or held something: what follows starts from elsewhere.
    const gaps = decisions.map((_, left) => replayDecisions(decisions.filter((__, index) => index !== left)));
    expect(gaps.slice(1, -1).some((faults) => faults.length > 0)).toBe(true);
  });

  test('every decision has its words and its figures', () => {
    for (const [index, decision] of decisions.entries()) {
      const effect = history.decisions[index]!;
      expect(sentenceOfDecision(decision, effect)).toMatch(/^[A-Za-z].*\.$/);
      const reasons = reasonsOf(decision.rollout, decision.facts, decision.figures, []);
      expect(reasons.length).toBeGreaterThan(2);
      const words = [...reasons.map(({ sentence }) => sentence), sentenceOfDecision(decision, effect)].join('\n');
      expect(words).not.toMatch(/NaN|undefined|null|Infinity|\b1 (devices|offers|failures)\b/);
    }
  });
});

/** The one decision of this kind in a history. */
const find = (name: string, kind: string): Decision => {
  const history = load(name);
  const found = decisionsIn(history).find((one, index) =>
    kindsOfDecision(one, history.decisions[index]!).includes(kind),
  );
  if (found === undefined) throw new Error(`${name} has no ${kind}`);
  return found;
};
const wrong = (decision: Decision): string[] => replayDecisions([decision]).flatMap(({ faults }) => faults);
const edited = (decision: Decision, edit: (copy: Decision) => void): Decision => {
  const copy = structuredClone(decision);
  edit(copy);
  return copy;
};

describe('what is otherwise is found', () => {
  const halt = find('halt-on-evidence', 'rollout-halted');
  test('a device that failed, counted as healthy', () => {
    const other = edited(halt, ({ facts }) => {
      for (const bin of facts.bins) if (bin.outcome === 'failed') bin.outcome = 'healthy';
    });
    expect(wrong(other)).toContain('its inputs lead to another state');
    expect(wrong(other)).toContain('its inputs lead to other figures');
  });
  test('another alpha, and so a judge that decides otherwise', () => {
    const other = edited(halt, ({ rollout }) => {
      if (rollout.policy.judge.rule === 'evidence') rollout.policy.judge.alpha = 0.0001;
    });
    expect(wrong(other)).toContain('its inputs lead to another state');
  });
  test('another reason for the halt', () => {
    const other = edited(halt, ({ outcome }) => {
      if (outcome.progress.state === 'halted' && outcome.progress.reason.kind === 'evidence')
        outcome.progress.reason.evidence += 1e-9;
    });
    expect(wrong(other)).toEqual(['its inputs lead to another state']);
  });
  test('one offer more than the judge allowed', () => {
    const other = edited(find('good-in-waves', 'offered'), ({ outcome }) => {
      for (const offer of outcome.offers) offer.atMost += 1;
    });
    expect(wrong(other)).toEqual(['its inputs lead to another set of offers']);
  });
  test('a window that was shut, said to be open', () => {
    const other = edited(find('windows-and-activation', 'held-by-window'), ({ facts }) => {
      for (const window of facts.windows ?? []) window.open = true;
    });
    expect(wrong(other)).toContain('its inputs lead to another set of offers');
  });
  test('a failure that no one acknowledged', () => {
    const other = edited(find('pause-resume-acknowledge', 'failures-acknowledged'), ({ event }) => {
      if (event.kind === 'resume') delete event.acknowledge;
    });
    expect(wrong(other)).not.toEqual([]);
  });
  test('a moment later, and the soak is over', () => {
    const other = edited(find('gate-and-soak', 'gate-met'), ({ rollout, facts }) => {
      if (rollout.progress.state === 'running') rollout.progress.gateSince = facts.now - rollout.policy.gate.soakMs;
    });
    expect(wrong(other)).toContain('its inputs lead to another line in the audit log');
  });
});

test('a tick that decides nothing is not worth a record', () => {
  const held = find('halt-on-budget', 'held-by-judge');
  const { audit, offers, withdraw, replan, nextTickAt, progress } = held.outcome;
  const step = { next: { ...held.rollout, progress }, audit, offers, withdraw, replan, nextTickAt, refused: null };
  expect(isWorthRecording(held.rollout.progress, step)).toBe('yes');
  expect(isWorthRecording(progress, { ...step, audit: [], offers: [] })).toBe('no');
});
