/** Everything there is to say about a rollout at this moment. */

import { type CoolingDown, coolDownWords } from '#server/domain/deployment/retry.ts';
import { sharingWords } from '#server/domain/device/boots.ts';
import { refusingWords } from '#server/domain/device/refusing.ts';
import { blockedWords } from '#server/domain/rollout/blockers.ts';
import { explainRollout } from '#server/domain/rollout/explain.ts';
import { recalledOf, recallWords } from '#server/domain/rollout/recall.ts';
import type { Recalled } from '#server/domain/rollout/rollout.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import { type Id, releaseRef } from '#shared/ids.ts';
import { STAYS, type StayReason } from '#shared/recall.ts';
import { type BlockerDeps, blockersNow } from '../time/rollout-time.ts';

export type RolloutReport = {
  rollout: RolloutRecord;
  counts: Awaited<ReturnType<Store['countDeployments']>>;
  /** Devices that never began to act on an offer. */
  untouched: number;
  explanation: string;
  coolingDown?: CoolingDown;
  /** Which devices do not act on their offers, in words. */
  refusing?: string;
  /** Which are offered nothing because two devices use their key. */
  sharing?: string;
  /** Where it was recalled. */
  recall?: RecallReport;
};
type RecallReport = {
  rollouts: { id: Id; release: string; devices: number }[];
  stays: { reason: StayReason; why: string; devices: number; named: Id[] }[];
};

export type ReportStore = Pick<
  Store,
  | 'countDeployments'
  | 'countUntouched'
  | 'getRefusing'
  | 'getSharingKey'
  | 'getCoolingDown'
  | 'listRecalls'
  | 'listStays'
>;

export const reportRollout = async (
  deps: { store: ReportStore } & BlockerDeps,
  rollout: RolloutRecord,
): Promise<RolloutReport> => {
  const { plan, progress } = rollout;
  const recalled = recalledOf(progress);
  const recall = recalled && (await reportRecall(deps.store, plan.id, recalled));
  const now = deps.now();
  const coolingDown = await deps.store.getCoolingDown(plan.id, now);
  const isRunning = progress.state === 'running';
  const refusing = isRunning ? refusingWords(await deps.store.getRefusing(plan.id)) : undefined;
  const sharing = isRunning ? sharingWords(await deps.store.getSharingKey(plan.id, now)) : undefined;
  return {
    rollout,
    counts: await deps.store.countDeployments(plan.id),
    untouched: await deps.store.countUntouched(plan.id),
    explanation:
      explainRollout({ ...plan, progress }, now, recall?.rollouts.length) +
      (isRunning && coolingDown !== undefined ? ` ${coolDownWords(coolingDown, now)}.` : '') +
      (refusing === undefined ? '' : ` ${refusing}.`) +
      (sharing === undefined ? '' : ` ${sharing}.`) +
      (isRunning ? blockedWords(await blockersNow(deps, plan.id)) : '') +
      (plan.recalls === undefined ? '' : ` It takes devices of ${plan.recalls} back.`) +
      (recalled === undefined || recall === undefined ? '' : recallWords(recalled, recall.rollouts, recall.stays)),
    ...(coolingDown === undefined ? {} : { coolingDown }),
    ...(refusing === undefined ? {} : { refusing }),
    ...(sharing === undefined ? {} : { sharing }),
    ...(recall === undefined ? {} : { recall }),
  };
};

const reportRecall = async (
  store: Pick<Store, 'listRecalls' | 'listStays'>,
  rollout: Id,
  { at }: Recalled,
): Promise<RecallReport> => ({
  rollouts: (await store.listRecalls(rollout)).map(({ id, product, version, devices }) => ({
    id,
    release: releaseRef(product, version),
    devices,
  })),
  stays: (await store.listStays(rollout, at)).map((one) => ({ ...one, why: STAYS[one.reason] })),
});
