/**
 * Names a selection of devices. It is resolved when a rollout is planned, so devices may be listed before they enrol.
 */

import { auditLine } from '#server/domain/audit.ts';
import { parseSelector } from '#server/domain/cohort/selector-parser.ts';
import type { CohortRecord } from '#server/store/devices.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';

/** Refusals: `selector-invalid`, `already-exists`. */
export const createCohort = async (
  deps: { store: Pick<Store, 'createCohort'>; now: () => number },
  input: { name: Id; by: string } & ({ devices: Id[] } | { selector: string }),
): Promise<Result<CohortRecord>> => {
  if ('selector' in input) {
    const selector = parseSelector(input.selector);
    if (!selector.ok) return selector;
  }
  const at = deps.now();
  const cohort: CohortRecord = {
    name: input.name,
    members:
      'selector' in input
        ? { kind: 'selector', selector: input.selector }
        : { kind: 'list', devices: [...new Set(input.devices)] },
    createdAt: at,
  };
  const created = await deps.store.createCohort(
    cohort,
    auditLine({ at, by: input.by, kind: 'cohort-created', cohort: input.name }),
  );
  return created === 'created'
    ? accept(cohort)
    : refuse('already-exists', `there is a cohort ${input.name} already; cohorts do not change, choose another name`);
};
