/** Which devices a cohort means at this moment. A rollout asks once, when it is planned; views ask again each time. */

import { matches } from '#server/domain/cohort/selector.ts';
import { parseSelector } from '#server/domain/cohort/selector-parser.ts';
import type { CohortRecord, DeviceRecord, DeviceState } from '#server/store/devices.ts';
import type { Page } from '#server/store/page.ts';
import type { Store } from '#server/store/store.ts';
import { accept, type Result } from '#shared/problems.ts';
import { everyPage } from '../every-page.ts';

/** Asks of one device whether the cohort means it, let in or not. */
export const membershipOf = (cohort: CohortRecord): ((device: DeviceRecord) => boolean) => {
  if (cohort.members.kind === 'list') {
    const ids = new Set<string>(cohort.members.devices);
    return (device) => ids.has(device.id);
  }
  const selector = parseSelector(cohort.members.selector);
  if (!selector.ok) throw new Error(`the stored selector of ${cohort.name} cannot be read: ${selector.detail}`);
  return (device) => matches(selector.value, device);
};

/** How many accepted devices are in each cohort: one walk over the fleet for all of them. */
export const countMembers = async (store: Pick<Store, 'listDevices'>, cohorts: CohortRecord[]): Promise<number[]> => {
  const memberships = cohorts.map(membershipOf);
  const counts = cohorts.map(() => 0);
  if (cohorts.length === 0) return counts;
  for await (const device of allDevices(store, 'accepted')) {
    for (const [index, isMember] of memberships.entries()) if (isMember(device)) counts[index]! += 1;
  }
  return counts;
};

export const allDevices = (store: Pick<Store, 'listDevices'>, state?: DeviceState): AsyncGenerator<DeviceRecord> =>
  everyPage(
    (page) => store.listDevices({ state }, page),
    (device) => device.id,
  );

/** One page of devices, by id; with a selector, of those that it matches. Refusal: `selector-invalid`. */
export const listDevices = async (
  store: Pick<Store, 'listDevices'>,
  filter: { state?: DeviceState | undefined; selector?: string | undefined },
  page: Page,
): Promise<Result<DeviceRecord[]>> => {
  if (filter.selector === undefined) return accept(await store.listDevices({ state: filter.state }, page));
  const selector = parseSelector(filter.selector);
  if (!selector.ok) return selector;
  const found: DeviceRecord[] = [];
  const { after } = page;
  const from = (next: Page) => store.listDevices({ state: filter.state }, { ...next, after: next.after ?? after });
  for await (const device of everyPage(from, (known) => known.id)) {
    if (matches(selector.value, device)) found.push(device);
    if (found.length === page.limit) break;
  }
  return accept(found);
};
