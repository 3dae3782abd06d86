/**
 * Looks at files that may never answer: those of a dead NFS mount, or /proc's of a process that is stuck in the kernel.
 * Such a call holds one of the four threads that Node has for all files, perhaps for good. Few are made at a time, so
 * that the agent's own files are always served, and no one waits long for them.
 */
const LOOK_MS_MAX = 5_000;

type Bounds = { msMax?: number; signal?: AbortSignal };
export type Look = <T>(look: () => Promise<T>, bounds?: Bounds) => Promise<T>;

/**
 * What it gives rejects with `ETIMEDOUT` when it takes too long, or when aborted; at once while `atOnceMax` earlier
 * ones still hang.
 */
const openLane = (atOnceMax: number): Look => {
  const waiting = new Set<() => void>();
  let [busy, hanging] = [0, 0];
  const next = (): void => {
    const [first] = waiting;
    if (first === undefined || busy >= atOnceMax) return;
    waiting.delete(first);
    first();
  };
  return async <T>(look: () => Promise<T>, { msMax = LOOK_MS_MAX, signal }: Bounds = {}) => {
    if (signal?.aborted === true || hanging >= atOnceMax) throw noAnswer('earlier looks still hang');
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    let state: 'waits' | 'looks' | 'hangs' | 'ended' = 'waits';
    const begin = (): void => {
      busy += 1;
      state = 'looks';
      void look()
        .then(resolve, reject)
        .finally(() => {
          clearTimeout(timer);
          busy -= 1;
          if (state === 'hangs') hanging -= 1;
          state = 'ended';
          next();
        });
    };
    const giveUp = (): void => reject(noAnswer(`no answer within ${msMax} ms`));
    const timer = setTimeout(() => {
      if (state === 'looks') {
        hanging += 1;
        state = 'hangs';
      }
      giveUp();
    }, msMax);
    signal?.addEventListener('abort', giveUp);
    waiting.add(begin);
    next();
    try {
      return await promise;
    } finally {
      // One that was aborted may hang all the same: its time goes on.
      if (state === 'waits') clearTimeout(timer);
      timer.unref();
      signal?.removeEventListener('abort', giveUp);
      waiting.delete(begin);
    }
  };
};

const noAnswer = (message: string): Error => Object.assign(new Error(message), { code: 'ETIMEDOUT' });

/** Files that are not the agent's. */
export const lookOutside: Look = openLane(2);
/** What the kernel takes out of a process's own memory: its environment and its command line. */
export const lookIntoProcess: Look = openLane(1);
