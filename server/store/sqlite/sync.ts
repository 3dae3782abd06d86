import type { Store } from '../store.ts';

/** The same methods, answering at once: what runs inside the worker. Derived, so that no method can be missing. */
export type Sync<S> = {
  [M in keyof S]: S[M] extends (...args: infer A) => Promise<infer R> ? (...args: A) => R : never;
};
/** Everything of a store but closing it, which belongs to whoever opened it. */
export type SyncStore = Sync<Omit<Store, 'close'>>;

/** One method seen without its types, as it travels between threads. */
export type Method = (...args: unknown[]) => unknown;
export type AsyncMethod = (...args: unknown[]) => Promise<unknown>;

// The three functions below change how methods are called, never which there are: TypeScript can not follow a mapped
// type through `Object.entries` and back, so this is the one place that says so.

export const methodsOf = (store: SyncStore): [string, Method][] =>
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- whoever calls by name has the arguments of that name
  Object.entries(store) as [string, Method][];
export const syncStoreOf = (methods: [string, Method][]): SyncStore =>
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- made from all methods of another SyncStore
  Object.fromEntries(methods) as SyncStore;
export const storeOf = (methods: [string, AsyncMethod][], close: () => Promise<void>): Store =>
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- made from all methods of a SyncStore, and `close`
  ({ ...Object.fromEntries(methods), close }) as Store;
