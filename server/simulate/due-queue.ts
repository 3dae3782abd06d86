/** What is yet to happen, soonest first: a binary heap. */
export type DueQueue<T> = {
  add(at: number, what: T): void;
  /** The soonest, when that is at most `now`. */
  take(now: number): { at: number; what: T } | undefined;
  nextAt(): number | null;
};

export const dueQueue = <T>(): DueQueue<T> => {
  const heap: { at: number; what: T }[] = [];
  const swap = (a: number, b: number): void => {
    const kept = heap[a]!;
    heap[a] = heap[b]!;
    heap[b] = kept;
  };
  const sink = (): void => {
    for (let place = 0; ; ) {
      const [left, right] = [2 * place + 1, 2 * place + 2];
      let soonest = place;
      if (left < heap.length && heap[left]!.at < heap[soonest]!.at) soonest = left;
      if (right < heap.length && heap[right]!.at < heap[soonest]!.at) soonest = right;
      if (soonest === place) return;
      swap(place, soonest);
      place = soonest;
    }
  };
  return {
    add(at, what) {
      heap.push({ at, what });
      for (let place = heap.length - 1; place > 0; ) {
        const parent = (place - 1) >> 1;
        if (heap[parent]!.at <= heap[place]!.at) return;
        swap(place, parent);
        place = parent;
      }
    },
    take(now) {
      const first = heap[0];
      if (first === undefined || first.at > now) return undefined;
      const last = heap.pop()!;
      if (heap.length > 0) {
        heap[0] = last;
        sink();
      }
      return first;
    },
    nextAt: () => heap[0]?.at ?? null,
  };
};
