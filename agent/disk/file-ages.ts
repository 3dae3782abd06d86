/**
 * How long ago files were modified. Their times are the clock's, which may be set between the write and the look; so
 * what counts from the second look on is whether a file's time has changed, and how much time has passed by a clock
 * that no one sets.
 */

export type FileAges = {
  /**
   * The file was modified so long ago. `future`: its time lies ahead by more than `withinMs`, and no earlier look tells
   * more. What was written since the last look is no older than that.
   */
  see(file: string, mtimeMs: number, withinMs: number): number | 'future';
  /** It is not there, or not readable: when it comes, it is new. */
  miss(file: string): void;
};

/** `mtimeMs` null: it was not there. `ageMs`: when that time was first seen, at `since`; null where nothing tells. */
type Seen = { mtimeMs: number | null; ageMs: number | null; since: number; lookedAt: number };

/** A file system may keep whole seconds, and writes what its own clock said a tick ago. */
const GRAIN_MS = 2_000;
/** By so little a clock drifts, or is kept right. */
const SET_MS_MIN = 1_000;

/**
 * `judge`: at the first look the clock decides, as on trial, where nothing unproven may pass. `believe`: what no look
 * has seen yet counts as new, as after a commit, where a clock that was set while the agent was away must not make a
 * healthy device ill.
 */
export const openFileAges = (
  firstLook: 'judge' | 'believe' = 'judge',
  clock: { wall(): number; monotonic(): number } = { wall: Date.now, monotonic: () => performance.now() },
): FileAges => {
  const files = new Map<string, Seen>();
  const opened = { wall: clock.wall(), monotonic: clock.monotonic() };

  /** Before the clock was set, if it was since these looks began, the file's time meant something else. */
  const firstAge = (mtimeMs: number, withinMs: number): number | null => {
    if (firstLook === 'believe') return 0;
    const byClock = clock.wall() - mtimeMs;
    const setByMs = clock.wall() - opened.wall - (clock.monotonic() - opened.monotonic);
    const ages = Math.abs(setByMs) < SET_MS_MIN ? [byClock] : [byClock, byClock - setByMs];
    const possible = ages.filter((age) => age >= -Math.min(withinMs, GRAIN_MS)).map((age) => Math.max(0, age));
    if (possible.length > 0) return Math.min(...possible);
    return byClock >= -withinMs ? 0 : null;
  };
  const changedAge = (mtimeMs: number, sinceLastMs: number): number => {
    const byClock = clock.wall() - mtimeMs;
    return byClock >= 0 && byClock <= sinceLastMs + GRAIN_MS ? byClock : 0;
  };

  return {
    see: (file, mtimeMs, withinMs) => {
      const at = clock.monotonic();
      const known = files.get(file);
      if (known?.mtimeMs === mtimeMs) known.lookedAt = at;
      else {
        const ageMs = known === undefined ? firstAge(mtimeMs, withinMs) : changedAge(mtimeMs, at - known.lookedAt);
        files.set(file, { mtimeMs, ageMs, since: at, lookedAt: at });
      }
      const { ageMs, since } = files.get(file)!;
      return ageMs === null ? 'future' : ageMs + at - since;
    },
    miss: (file) => {
      const at = clock.monotonic();
      files.set(file, { mtimeMs: null, ageMs: null, since: at, lookedAt: at });
    },
  };
};
