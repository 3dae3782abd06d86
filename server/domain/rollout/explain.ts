/** One sentence for people: why a rollout is where it is, and what it waits for. */
import { type Millis, unreachable } from '#shared/ids.ts';
import { approvalsWords } from '../approvals.ts';
import { type HaltReason, sentenceOfHalt } from '../halt-reason.ts';
import { durationWords, percentOf, short, waveName } from '../words.ts';
import type { Hold, Rollout } from './rollout.ts';

const noted = (note: string): string => (note === '' ? '' : `: ${note}`);

/**
 * `now` counts down what ends by itself; `goingBack`: how many rollouts take devices of a recalled one back, where that
 * is known.
 */
export const explainRollout = ({ progress, waveSizes }: Rollout, now: Millis, goingBack?: number): string => {
  switch (progress.state) {
    case 'draft':
      return 'A draft: it has not been submitted.';
    case 'awaiting-approval':
      return `Waits for approval: ${approvalsWords(progress.approvedBy, progress.needed)}.`;
    case 'scheduled':
      return now < progress.startAt ? `Starts in ${durationWords(progress.startAt - now)}.` : 'Starts now.';
    case 'running':
      return `In ${waveName(progress.wave)} of ${waveSizes.length}: ${explainHold(progress.hold, progress.wave + 1 >= waveSizes.length, now)}.`;
    case 'paused':
      return `${progress.by} paused it in ${waveName(progress.wave)}${noted(progress.note)}. No one new is offered the release until it is resumed.`;
    case 'halted':
      return `Halted in ${waveName(progress.wave)}: ${sentenceOfHalt(progress.reason)}. ${wayOut(progress.reason, progress.recalled !== undefined && goingBack !== 0)}`;
    case 'completed':
      return 'Completed: every device is decided.';
    case 'aborted':
      return `${progress.by} aborted it${noted(progress.note)}. Trials in progress finish.`;
    default:
      return unreachable(progress);
  }
};

const devicesShort = (risk: number): string => {
  const devices = short(Math.max(0, risk));
  return `${devices} ${devices === '1' ? 'device' : 'devices'}`;
};

/** What a person can do about a halt. */
const wayOut = (reason: HaltReason, isRecalled: boolean): string => {
  if (isRecalled) return 'Offers not acted on were withdrawn; as a recalled one it can only be aborted.';
  if (reason.kind === 'release-withdrawn') return 'Abort it, and roll out another release.';
  return reason.kind === 'gate-unreachable' && reason.reachable === 0
    ? 'See why these devices are silent; resume it with a note to open the next wave without them, or abort it.'
    : 'Offers not acted on were withdrawn; resume it with a note that acknowledges the failures, or abort it.';
};

/** A main clause without a full stop. */
const explainHold = (hold: Hold | null, isLastWave: boolean, now: Millis): string => {
  if (hold === null) return 'offers go out as devices are free to take them';
  switch (hold.kind) {
    case 'judge':
      return hold.unaccepted > 0
        ? `waits for evidence of health in ${hold.group}: ${hold.unaccepted === 1 ? '1 device has not answered its offer' : `${hold.unaccepted} devices have not answered their offers`}, and up to ${percentOf(hold.upperBound)} failing is still plausible`
        : `waits for evidence of health in ${hold.group}: ${devicesShort(hold.risk)} beyond the tolerated share may be failing, and up to ${percentOf(hold.upperBound)} failing is still plausible`;
    case 'at-risk-limit':
      return `waits, because ${hold.atRisk === 1 ? '1 device is' : `${hold.atRisk} devices are`} between offer and outcome, where at most ${hold.limit} may be`;
    case 'rate-limit':
      return `waits ${durationWords(hold.nextAt - now)} for the next offers, as the policy limits starts per minute`;
    case 'window':
      return hold.opensAt === null
        ? `waits for the maintenance window of ${hold.cohort}`
        : `waits for the maintenance window of ${hold.cohort}, which opens in ${durationWords(hold.opensAt - now)}`;
    case 'activation':
      return `${hold.installed === 1 ? '1 device has installed it and waits' : `${hold.installed} devices have installed it and wait`} ${
        hold.waits === 'command'
          ? 'to be told to activate it (rollout activate)'
          : hold.waits === 'time' && hold.at !== null
            ? `until all activate it in ${durationWords(hold.at - now)}`
            : `for ${hold.installed === 1 ? 'its' : 'their'} maintenance window to activate it`
      }`;
    case 'gate':
      if (hold.committed < hold.needed) {
        return `waits for devices to commit: ${hold.committed} so far, ${hold.needed} needed for the ${isLastWave ? 'rollout to succeed' : 'next wave to open'}`;
      }
      return hold.soakEndsAt === null
        ? `enough devices committed (${hold.committed}, where ${hold.needed} must); it waits for the last outcomes`
        : `enough devices committed (${hold.committed}, where ${hold.needed} must); the next wave opens when this has stayed so for another ${durationWords(hold.soakEndsAt - now)}`;
    default:
      return unreachable(hold);
  }
};
