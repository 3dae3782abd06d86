/**
 * Policies that people know from elsewhere, as far as this server has their rules, and this judge with other budgets.
 */
import type { z } from 'zod';
import { Policy } from '#shared/policy.ts';
import { Trial } from './model.ts';

const EVERYBODY = [{ percent: 100 }];
/** hawkBit's customary groups of 1, 9, 40 and 50 %. */
const GROUPS = [{ percent: 1 }, { percent: 10 }, { percent: 50 }, { percent: 100 }];

const trial = (name: string, waves: z.input<typeof Trial>['waves'], policy: z.input<typeof Policy>): Trial =>
  Trial.parse({ name, waves, policy: Policy.parse({ gate: { successShare: 0.9, soakMs: 0 }, ...policy }) });

export const COMPARISONS: readonly Trial[] = [
  trial('wave-percentage-2', GROUPS, { judge: { rule: 'wave-percentage', percent: 2 } }),
  trial('wave-percentage-5', GROUPS, { judge: { rule: 'wave-percentage', percent: 5 } }),
  trial('percentage-after-1', EVERYBODY, {
    judge: { rule: 'percentage-after-minimum', percent: 2, minimum: 1 },
    limits: { startsPerMinute: 50 },
  }),
  trial('percentage-after-100', EVERYBODY, {
    judge: { rule: 'percentage-after-minimum', percent: 5, minimum: 100 },
    limits: { startsPerMinute: 50 },
  }),
  ...[10, 20, 50].map((budget) => trial(`evidence-${budget}`, EVERYBODY, { judge: { rule: 'evidence', budget } })),
];
export const COMPARED_BY_DEFAULT = COMPARISONS.slice(0, 4).map(({ name }) => name);
