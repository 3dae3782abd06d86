/** Halt reasons in words, for the audit log and for the rollout's explanation. No full stop at the end: it stands inside sentences. */
import { unreachable } from '#shared/ids.ts';
import type { HaltReason } from './rollout.ts';

/** Few digits for people: `0.0254` -> `2.5 %`. */
export const percentOf = (share: number): string => `${Number((100 * share).toPrecision(3))} %`;
/** `2.0448` -> `2.04`. */
export const short = (value: number): string => String(Number(value.toPrecision(3)));
/** `1 device`, `2 devices`. */
export const plural = (number: number, noun: string): string => `${number} ${noun}${number === 1 ? '' : 's'}`;
/** Waves are counted from 1 where people read. */
export const waveName = (wave: number): string => `wave ${wave + 1}`;

/** Why it halted: a main clause with the figures that made it so. */
export const sentenceOfHalt = (reason: HaltReason): string => {
  switch (reason.kind) {
    case 'evidence':
      return `${reason.failed} of ${plural(reason.offered, 'device')} failed in ${reason.group}, which is ${short(reason.evidence)} to 1 evidence of a failure rate above the tolerated one`;
    case 'budget':
      return `${reason.failed} of ${plural(reason.offered, 'device')} failed in ${reason.group}, ${short(reason.excess)} more than the tolerated share, which uses up the budget of ${short(reason.budget)}`;
    case 'percentage':
      return `${reason.failed} of ${plural(reason.decided, 'device')} failed (${short(reason.percent)} %), more than the ${short(reason.limitPercent)} % allowed`;
    case 'gate-unreachable':
      if (reason.reachable === 0)
        return `nobody in ${waveName(reason.wave)} was heard: ${plural(reason.neverHeard, 'device')} never took the offer up and none committed, so there is no evidence to open the next wave on`;
      return `the gate of ${waveName(reason.wave)} is out of reach: ${reason.failed} of ${plural(reason.reachable, 'reachable device')} failed and ${reason.committed} committed, where ${reason.needed} must commit`;
    case 'release-withdrawn':
      return `${reason.by} withdrew the release`;
    default:
      return unreachable(reason);
  }
};
