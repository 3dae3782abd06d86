/** After a restart: what the slots say about a deployment, and what is left to know when the journal is lost. */

import type { EventKind, InstallState } from './install-state.ts';
import type { Memory } from './memory.ts';
import { other, type SlotName, type SlotsView } from './slots.ts';

/** From `activating` on the slots are asked; this is their answer as an event. */
export const evidenceOf = (
  view: Pick<SlotsView, 'active' | 'trial'>,
  state: { slot: SlotName },
): Extract<EventKind, `found-${string}`> => {
  if (view.active === state.slot) return 'found-active';
  return view.trial?.slot === state.slot ? 'found-on-trial' : 'found-untouched';
};

/** Where the next version goes: never onto the slot that is committed. */
export const standbyOf = (view: Pick<SlotsView, 'active'>): SlotName =>
  view.active === null ? 'a' : other(view.active);

/**
 * A memory for a device whose journal is new, or was damaged (faults 13). What was being installed is not known any
 * more; the server's desired document says it again. A trial whose rules are forgotten cannot be judged: `revert` asks
 * to end it. `floor` is what was kept beside the journal. Reports are numbered by the clock; a device that kept a
 * higher number beside the journal goes on from that.
 */
export const rebuildMemory = (view: SlotsView, floor: number, now: number): { memory: Memory; revert: boolean } => {
  const active = view.active === null ? undefined : view.slots[view.active];
  const idle: InstallState = { state: 'idle' };
  return {
    memory: {
      install: idle,
      desiredSeq: 0,
      last: null,
      floor: Math.max(floor, active?.state === 'bootable' ? active.securityCounter : 0),
      reportSeq: Math.max(0, Math.floor(now)),
    },
    revert: view.trial !== null,
  };
};
