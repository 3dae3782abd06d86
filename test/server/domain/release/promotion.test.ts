import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { countingApprovals } from '#server/domain/approvals.ts';
import { type Channel, Channels, findChannel } from '#server/domain/release/channel.ts';
import { missingOf, type PromotionFacts, requirementsOf } from '#server/domain/release/promotion.ts';
import { Id } from '#shared/ids.ts';

const HOUR = 3_600_000;
const NOW = 1_800_000_000_000;
const id = (text: string): Id => Id.parse(text);
const release = { product: id('gateway'), version: '1.4.0' };
const [staging, production] = Channels.parse([
  'staging',
  {
    name: 'production',
    requires: { completedRollout: true, soakMs: 24 * HOUR, checks: ['e2e', 'hil'], sbom: true, approvals: 2 },
  },
]);

const check = (name: string, outcome: 'pass' | 'fail', link: string | null = null) => ({
  ...release,
  check: id(name),
  outcome,
  link,
  at: NOW,
  by: 'ci',
});
const approval = (by: string) => ({ ...release, channel: id('production'), by, note: '', at: NOW });
const nothing: PromotionFacts = {
  now: NOW,
  withoutSbom: [id('gw2')],
  completedAt: null,
  checks: [],
  approvals: [],
  authors: ['ci', 'ada'],
  active: ['ada', 'bob', 'carol'],
};
const everything: PromotionFacts = {
  ...nothing,
  withoutSbom: [],
  completedAt: NOW - 24 * HOUR,
  checks: [check('e2e', 'pass', 'https://ci.example.com/1'), check('hil', 'pass')],
  approvals: [approval('bob'), approval('carol')],
};
const missing = (facts: PromotionFacts) => missingOf(requirementsOf(production!, staging!.name, facts));

describe('what a channel requires', () => {
  test('a bare name requires nothing', () => {
    expect(requirementsOf(staging!, null, nothing)).toEqual([]);
  });

  test('a check is named', () => {
    const named = requirementsOf(production!, staging!.name, { ...nothing, checks: [check('hil', 'fail')] });
    expect(named.filter(({ kind }) => kind === 'check')).toMatchObject([
      { check: 'e2e', met: false },
      { check: 'hil', met: false },
    ]);
    expect(named.filter(({ kind }) => kind !== 'check').every((one) => !('check' in one))).toBe(true);
  });

  test('everything that is missing is listed at once, in words that say what to do', () => {
    expect(missing(nothing)).toEqual([
      'there is no SBOM in the bundle for gw2',
      'check e2e has not been reported',
      'check hil has not been reported',
      'no rollout of it that devices committed has completed in staging',
      'its soak of 1 d has not begun',
      'approvals: 0 of 2 given, from others than ci, ada',
    ]);
  });

  test('nothing is missing when all is there', () => {
    expect(missing(everything)).toEqual([]);
    expect(requirementsOf(production!, staging!.name, everything).map(({ sentence }) => sentence)).toEqual([
      'every bundle carries an SBOM',
      'check e2e passed (https://ci.example.com/1)',
      'check hil passed',
      'a rollout of it completed in staging',
      'its soak of 1 d is over',
      'approvals: 2 of 2 given (bob, carol)',
    ]);
  });

  test('the soak counts down to the millisecond', () => {
    expect(missing({ ...everything, completedAt: NOW - 21 * HOUR })).toEqual([
      'its soak of 1 d goes on for another 3 h',
    ]);
    expect(missing({ ...everything, completedAt: NOW - 24 * HOUR + 1 })).toHaveLength(1);
  });

  test('a check that failed is not one that is missing', () => {
    const checks = [check('e2e', 'fail', 'https://ci.example.com/2'), check('hil', 'pass')];
    expect(missing({ ...everything, checks })).toEqual(['check e2e failed (https://ci.example.com/2)']);
  });

  test('each requirement is met by exactly its own fact', () => {
    const parts = {
      sbom: { withoutSbom: [] },
      rollout: { completedAt: NOW },
      soak: { completedAt: NOW - 24 * HOUR },
      check: { checks: everything.checks },
      approvals: { approvals: everything.approvals },
    };
    fc.assert(
      fc.property(fc.subarray(Object.entries(parts)), (chosen) => {
        const facts: PromotionFacts = Object.assign({ ...nothing }, ...chosen.map(([, part]) => part));
        const met = new Set(chosen.map(([kind]) => kind));
        if (met.has('soak')) met.add('rollout');
        // Whichever of the two was assigned last says when the rollout completed.
        if (chosen.some(([kind]) => kind === 'rollout') && facts.completedAt === NOW) met.delete('soak');
        const requirements = requirementsOf(production!, staging!.name, facts);
        expect(new Set(requirements.filter((one) => one.met).map(({ kind }) => kind))).toEqual(met);
      }),
    );
  });
});

test('approvals count each active person once, and no author, whatever is given in whatever order', () => {
  const name = fc.constantFrom<string>('ada', 'bob', 'carol', 'dan');
  fc.assert(
    fc.property(fc.array(name), fc.array(name), fc.array(name), (approvedBy, authors, active) => {
      const counting = countingApprovals(approvedBy, authors, active);
      const wanted = ['ada', 'bob', 'carol', 'dan'].filter(
        (who) => approvedBy.includes(who) && active.includes(who) && !authors.includes(who),
      );
      expect([...counting].sort()).toEqual(wanted);
    }),
  );
});

describe('channels in the configuration', () => {
  const refused = (value: unknown): string => Channels.safeParse(value).error?.issues[0]?.message ?? 'accepted';

  test('are found with the one before', () => {
    const channels: Channel[] = Channels.parse(['dev', 'staging', 'production']);
    expect(findChannel(channels, id('staging'))).toMatchObject({
      channel: { name: 'staging' },
      previous: { name: 'dev' },
    });
    expect(findChannel(channels, id('dev'))).toMatchObject({ previous: null });
    expect(findChannel(channels, id('nightly'))).toBeUndefined();
  });

  test('are refused when they require what cannot be', () => {
    expect(refused([{ name: 'first', requires: { completedRollout: true } }])).toMatch(/no channel before the first/);
    expect(refused(['a', { name: 'b', requires: { soakMs: 5 } }])).toMatch(/soakMs needs completedRollout/);
    expect(refused(['a', 'a'])).toMatch(/two channels a/);
    expect(refused([{ name: 'a', approvals: 2 }])).toMatch(/approvals/);
    expect(refused(['a b'])).toMatch(/must be 1 to 64/);
    expect(refused([{ name: 'a', requires: { checks: ['no good'] } }])).toMatch(/must be 1 to 64/);
    expect(refused([7])).toMatch(/expected object/);
  });
});
