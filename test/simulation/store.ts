/** The real store on SQLite in memory, as one life of a server sees it: calls take time, the server may crash around any of them, and every one is watched. */
import { methodsOf, type SyncStore, storeOf } from '#server/store/sqlite/sync.ts';
import type { Store } from '#server/store/store.ts';
import type { Witness } from './checks.ts';
import type { Process } from './time.ts';
import { never, type World } from './world.ts';

/** Chance that the server dies before, or after, one call. */
const CRASH = 0.0002;

export const storeFor = (
  world: World,
  sync: SyncStore,
  witness: Witness,
  process: Process,
  crash: () => void,
): Store => {
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
    if (!world.has('server-crash') || !crashes.chance(CRASH)) return false;
    crash();
    return true;
  };
  const methods = methodsOf(sync).map(([name, method]): [string, (...args: unknown[]) => Promise<unknown>] => [
    name,
    async (...args) => {
      await rest(name);
      if (maybeCrash()) return never();
      const planted = plantedIn(world, sync, process, name, args);
      if (planted.instead !== undefined) return planted.instead();
      const result = witness.observe(name, planted.args, () => method(...planted.args));
      if (maybeCrash()) return never();
      await rest(name);
      return process.dead ? never() : result;
    },
  ]);
  return storeOf(methods, async () => {});
};

type Planted = { args: unknown[]; instead?: () => Promise<unknown> };
type Save = Parameters<SyncStore['saveRollout']>[0];
type Reports = Parameters<SyncStore['saveReports']>[0];

/** The bugs that live between a flow and its store. */
const plantedIn = (world: World, sync: SyncStore, process: Process, name: string, args: unknown[]): Planted => {
  const { bug } = world.options;
  if (bug === undefined) return { args };
  if (name === 'saveRollout') {
    const save = args[0] as Save;
    if (bug === 'revision-not-checked') {
      const revision = sync.getRollout(save.rollout.plan.id)?.revision ?? save.rollout.revision;
      return { args: [{ ...save, rollout: { ...save.rollout, revision } }] };
    }
    if (bug === 'more-than-allowed')
      return { args: [{ ...save, offers: save.offers.map((offer) => ({ ...offer, atMost: offer.atMost * 3 + 2 })) }] };
    if (bug === 'withdrawal-lost') return { args: [{ ...save, withdraw: null }] };
  }
  if (name === 'saveReports' && bug === 'acknowledged-before-commit') {
    const reports = args[0] as Reports;
    return {
      args,
      instead: async () => {
        world.time.at(50, process, () => sync.saveReports(reports));
        return { conflicts: [] };
      },
    };
  }
  if (name === 'saveReports' && bug === 'receipt-not-needed') {
    const reports = args[0] as Reports;
    const trusting = reports.map((report) => ({
      ...report,
      deployments: report.deployments.map((row) =>
        row.state === 'trial' ? { ...row, state: 'committed' as const, decidedAt: row.stateAt, deadlineAt: null } : row,
      ),
    }));
    return { args: [trusting] };
  }
  return { args };
};
