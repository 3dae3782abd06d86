import type { Store } from '../store.ts';

/** The same methods, answering at once: what runs inside the worker. Derived, so that no method can be missing. */
export type Sync<S> = {
  [M in keyof S]: S[M] extends (...args: infer A) => Promise<infer R> ? (...args: A) => R : never;
};
/** Everything of a store but closing it, which belongs to whoever opened it. */
export type SyncStore = Sync<Omit<Store, 'close'>>;
