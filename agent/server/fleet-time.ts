/**
 * What time it is for windows and activation, which the server means by its own clock: its last report and what has
 * passed since, by a clock that no one sets. Without its word, trusted time. Never used for expiry: the server's answer
 * about time is not signed.
 */

/**
 * The two clocks differ by more: one was set, or the other stood still. The server's answer still says more than the
 * clock, until it is asked again.
 */
const SET_MS_MIN = 60_000;

export type FleetTime = {
  /** The server has just said that it is so late there. */
  learn(serverTime: number): void;
  /** Whether the server need not be asked: heard, and the clock not set since. */
  known(): boolean;
  /** Undefined when nothing tells what time it is at least. */
  now(): number | undefined;
};

export const openFleetTime = (options: {
  /** The device's clock, which anyone may set. */
  wall(): number;
  /** Milliseconds since some moment, never set; with the time that the machine slept. */
  monotonic(): number;
  /** It is certainly not earlier. */
  earliest(): number;
  /** The device's clock as far as it can be believed. */
  trusted(): number | undefined;
}): FleetTime => {
  let heard: { server: number; wall: number; monotonic: number } | undefined;
  let isSet = false;
  const passedMs = (): number | undefined => {
    if (heard === undefined) return undefined;
    const passed = options.monotonic() - heard.monotonic;
    isSet ||= Math.abs(options.wall() - heard.wall - passed) >= SET_MS_MIN;
    return passed;
  };
  return {
    learn: (server) => {
      isSet = false;
      heard = { server, wall: options.wall(), monotonic: options.monotonic() };
    },
    known: () => passedMs() !== undefined && !isSet,
    now: () => {
      const passed = passedMs();
      return heard === undefined || passed === undefined
        ? options.trusted()
        : Math.max(heard.server + passed, options.earliest());
    },
  };
};
