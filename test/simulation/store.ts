/**
 * The real store on SQLite in memory, as one life of a server sees it: calls take time, the server may crash around any
 * of them, and every one is watched.
 */
import type Database from 'better-sqlite3';
import type { StoreMethods } from '#server/store/methods/methods.ts';
import type { Store } from '#server/store/store.ts';
import { plantedIn } from './planted.ts';
import type { Rows } from './rows.ts';
import type { Process } from './time.ts';
import type { Witness } from './witness.ts';
import { never, type World } from './world.ts';

/** Chance that the server dies before, or after, one call. */
const CRASH = 0.0002;

export const storeFor = (deps: {
  world: World;
  database: Database.Database;
  methods: StoreMethods;
  rows: Rows;
  witness: Witness;
  process: Process;
  crash: () => void;
}): Store => {
  const { world, witness, process, crash } = deps;
  const latency = world.random('store-latency');
  const crashes = world.random('server-crash');
  const rest = async (name: string): Promise<void> => {
    if (!world.has('store-latency')) return;
    // Between what a decision is made from and its saving, someone else may always come in.
    if (latency.chance(name === 'getOutcomeBins' ? 0.4 : 0.15))
      await world.time.sleep(latency.between(1, latency.chance(0.2) ? 2_000 : 150));
  };
  const maybeCrash = (): boolean => {
    if (process.dead) return true;
    if (!world.strikes('server-crash', crashes, CRASH)) return false;
    crash();
    return true;
  };
  /**
   * Alone: everything that can go on has gone on when an event begins, so that nothing but this call is under way, and
   * rows that are read before and after it are what is committed. A process that has died never gets there.
   */
  const alone = (act: () => Promise<unknown>): Promise<unknown> =>
    new Promise((resolve, reject) => {
      world.time.at(0, process, () => void act().then(resolve, reject));
    });
  const watched =
    (name: string, method: Method): Method =>
    async (...args) => {
      await rest(name);
      if (maybeCrash()) return never();
      const planted = plantedIn(deps, name, args);
      if (planted.instead !== undefined) return planted.instead();
      const result = await alone(() =>
        witness.observe(name, planted.args, async () => {
          const answer = await method(...planted.args);
          planted.after?.();
          return planted.answer === undefined ? answer : planted.answer();
        }),
      );
      if (maybeCrash()) return never();
      await rest(name);
      return process.dead ? never() : result;
    };
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- TypeScript cannot follow a mapped type through its entries
  const methods = Object.entries(deps.methods) as [string, Method][];
  const all = Object.fromEntries(methods.map(([name, method]) => [name, watched(name, method)]));
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the same methods, and `close`
  return { ...all, close: async () => {} } as unknown as Store;
};

type Method = (...args: unknown[]) => Promise<unknown>;
