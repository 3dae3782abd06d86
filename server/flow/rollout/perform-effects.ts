/** The act half of "record, then act": empties the outbox, at least once. Devices ignore what they have seen. */
import type { OutboxEffect } from '#server/store/desired.ts';
import type { Store } from '#server/store/store.ts';
import { type DesiredDeps, publishDesired } from '../device/desired.ts';
import type { DeviceLink } from '../device/device-link.ts';

const ITEMS_MAX = 32;

type PerformDeps = DesiredDeps & {
  store: Pick<Store, 'takeOutbox' | 'finishOutbox'>;
  link: Pick<DeviceLink, 'pushDesired'>;
};

/**
 * Takes what waits, performs it, then crosses it off: a crash in between performs it again. How many were performed.
 * Must not run twice at once in one process; `startRollouts` sees to that.
 */
export const performEffects = async (deps: PerformDeps): Promise<number> => {
  let performed = 0;
  for (;;) {
    const items = await deps.store.takeOutbox(ITEMS_MAX);
    if (items.length === 0) return performed;
    for (const item of items) await perform(deps, item.effect);
    await deps.store.finishOutbox(items.map((item) => item.id));
    performed += items.length;
  }
};

const perform = async (deps: PerformDeps, effect: OutboxEffect): Promise<void> => {
  switch (effect.kind) {
    case 'publish-desired':
      return publishDesired(deps, effect.devices);
  }
};
