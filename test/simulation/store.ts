/** The real store on SQLite in memory, as one life of a server sees it: calls take time, the server may crash around any of them, and every one is watched. */
import type { Sql } from '#server/store/sqlite/sql.ts';
import { methodsOf, type SyncStore, storeOf } from '#server/store/sqlite/sync.ts';
import type { Store } from '#server/store/store.ts';
import { plantedIn } from './planted.ts';
import type { Process } from './time.ts';
import type { Witness } from './witness.ts';
import { never, type World } from './world.ts';

/** Chance that the server dies before, or after, one call. */
const CRASH = 0.0002;

export const storeFor = (deps: {
  world: World;
  sync: SyncStore;
  sql: Sql;
  witness: Witness;
  process: Process;
  crash: () => void;
}): Store => {
  const { world, sync, witness, process, crash } = deps;
  const latency = world.random('store-latency');
  const crashes = world.random('server-crash');
  const rest = async (name: string): Promise<void> => {
    if (!world.has('store-latency')) return;
    // Between what a decision is made from and its saving, somebody else may always come in.
    if (latency.chance(name === 'getOutcomeBins' ? 0.4 : 0.15))
      await world.time.sleep(latency.between(1, latency.chance(0.2) ? 2_000 : 150));
  };
  const maybeCrash = (): boolean => {
    if (process.dead) return true;
    if (!world.strikes('server-crash', crashes, CRASH)) return false;
    crash();
    return true;
  };
  const methods = methodsOf(sync).map(([name, method]): [string, (...args: unknown[]) => Promise<unknown>] => [
    name,
    async (...args) => {
      await rest(name);
      if (maybeCrash()) return never();
      const planted = plantedIn(deps, name, args);
      if (planted.instead !== undefined) return planted.instead();
      const result = witness.observe(name, planted.args, () => {
        const answer = method(...planted.args);
        planted.after?.();
        return planted.answer === undefined ? answer : planted.answer;
      });
      if (maybeCrash()) return never();
      await rest(name);
      return process.dead ? never() : result;
    },
  ]);
  return storeOf(methods, async () => {});
};
