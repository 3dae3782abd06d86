/** Every method of the store on one SQLite database, synchronous, each one transaction. It runs in a worker, or in-process for simulations. */
import { audit } from './audit.ts';
import { changes } from './changes.ts';
import { clock } from './clock.ts';
import { cohorts } from './cohorts.ts';
import { decisions } from './decisions.ts';
import { deployments } from './deployments.ts';
import { desired } from './desired.ts';
import { deviceLogs } from './device-logs.ts';
import { devices } from './devices.ts';
import { drift } from './drift.ts';
import { ingest } from './ingest.ts';
import { meta } from './meta.ts';
import { operators } from './operators.ts';
import { products } from './products.ts';
import { promotion } from './promotion.ts';
import { recalls } from './recalls.ts';
import { releases } from './releases.ts';
import { rollouts } from './rollouts.ts';
import type { Sql } from './sql.ts';
import { type Method, methodsOf, type SyncStore, syncStoreOf } from './sync.ts';
import { timing } from './timing.ts';
import { transfer } from './transfer.ts';
import { watch } from './watch.ts';

export const implementStore = (sql: Sql): SyncStore => {
  const methods: SyncStore = {
    ...products(sql),
    ...releases(sql),
    ...promotion(sql),
    ...changes(sql),
    ...operators(sql),
    ...devices(sql),
    ...clock(sql),
    ...cohorts(sql),
    ...rollouts(sql),
    ...deployments(sql),
    ...decisions(sql),
    ...ingest(sql),
    ...desired(sql),
    ...audit(sql),
    ...timing(sql),
    ...deviceLogs(sql),
    ...drift(sql),
    ...meta(sql),
    ...transfer(sql),
    ...watch(sql),
    ...recalls(sql),
  };
  const inTransaction = ([name, method]: [string, Method]): [string, Method] => [
    name,
    (...args) => sql.transaction(() => method(...args)),
  ];
  return syncStoreOf(methodsOf(methods).map(inTransaction));
};
