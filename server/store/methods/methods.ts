/** How the store's methods are written: each takes the transaction that it runs in, and then what its caller gave. */
import type { Sql } from '../sql.ts';
import type { Store } from '../store.ts';

/** Everything of a store but closing it, which belongs to the one that opened it. */
export type StoreMethods = Omit<Store, 'close'>;
export type Methods = {
  [M in keyof StoreMethods]: StoreMethods[M] extends (...args: infer A) => infer R
    ? (sql: Sql, ...args: A) => R
    : never;
};
