/** Calls that must not overlap. */
import type { DeviceTrust } from './trust/device-trust.ts';

/** The trust store reads, fetches and writes its files over several steps: one call at a time. */
export const inTurns = (trust: DeviceTrust): DeviceTrust => {
  let turn: Promise<unknown> = Promise.resolve();
  const next = <T>(act: () => Promise<T>): Promise<T> => {
    const mine = turn.then(act);
    turn = mine.catch(() => undefined);
    return mine;
  };
  return {
    hasRoot: () => trust.hasRoot(),
    time: () => trust.time(),
    earliest: () => trust.earliest(),
    pinRoot: (sha256) => next(() => trust.pinRoot(sha256)),
    checkDesired: (desired) => next(() => trust.checkDesired(desired)),
    acceptSeq: (seq) => next(() => trust.acceptSeq(seq)),
    checkManifest: (instruction, device) => next(() => trust.checkManifest(instruction, device)),
  };
};
