/** Every method of the store on one database, each one transaction. */
import type { Sql } from '../sql.ts';
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
import type { Methods, StoreMethods } from './methods.ts';
import { operators } from './operators.ts';
import { products } from './products.ts';
import { promotion } from './promotion.ts';
import { recalls } from './recalls.ts';
import { releases } from './releases.ts';
import { rollouts } from './rollouts.ts';
import { timing } from './timing.ts';
import { transfer } from './transfer.ts';
import { watch } from './watch.ts';

const METHODS: Methods = {
  ...products,
  ...releases,
  ...promotion,
  ...changes,
  ...operators,
  ...devices,
  ...clock,
  ...cohorts,
  ...rollouts,
  ...deployments,
  ...decisions,
  ...ingest,
  ...desired,
  ...audit,
  ...timing,
  ...deviceLogs,
  ...drift,
  ...meta,
  ...transfer,
  ...watch,
  ...recalls,
};

type Method = (sql: Sql, ...args: unknown[]) => Promise<unknown>;

export const implementStore = (sql: Sql): StoreMethods => {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- TypeScript cannot follow a mapped type through its entries
  const methods = Object.entries(METHODS) as [string, Method][];
  const bound = methods.map(([name, method]) => [
    name,
    (...args: unknown[]) => sql.transaction((transaction) => method(transaction, ...args)),
  ]);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the same names, each without its first argument
  return Object.fromEntries(bound) as StoreMethods;
};
