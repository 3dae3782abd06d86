/** `sluice device drift`, `reconcile` and `adopt`: devices that run what no one told them to run. */
import type { Command } from 'commander';
import { routes } from '#shared/api.ts';
import { type Id, releaseRef } from '#shared/ids.ts';
import { listAll } from '../client.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { usageFailure } from '../failure.ts';
import { formatAgo, print, printJson, table } from '../terminal.ts';
import { collect, id, wholeNumber } from '../values.ts';

const refOf = (running: { product: string; version: string }): string => releaseRef(running.product, running.version);

export const addDrift = (group: Command): void => {
  const list = withServer(group.command('drift'))
    .description('List devices that run what no one told them to run, such as after a manual change or an old backup')
    .option('--limit <n>', 'at most so many', wholeNumber, 1000)
    .action(async (flags: ServerFlags & { limit: number }) => {
      const client = await connect(flags);
      const items = await listAll((query) => client.call(routes.driftList, { query }), flags.limit);
      if (flags.json === true) return printJson(items);
      const now = Date.now();
      const rows = items.map((one) => [
        one.device,
        refOf(one.running),
        refOf(one.expected),
        formatAgo(one.since, now),
        one.online ? 'online' : 'offline',
      ]);
      print(table(['DEVICE', 'RUNS', 'SHOULD RUN', 'SINCE', 'PRESENCE'], rows));
    });
  withExamples(list, [['Who was changed by hand?', 'sluice device drift']]);
  addReconcile(group);
  addAdopt(group);
};

const addReconcile = (group: Command): void => {
  const reconcile = withServer(group.command('reconcile'))
    .description(
      'Send drifted devices back to what they should run: a rollout for each release to just them, all of them or none',
    )
    .argument('[device...]', 'their ids', collect(id))
    .option('--all', 'every device that drifts, up to 1,000')
    .action(async (named: Id[], flags: ServerFlags & { all?: boolean }) => {
      if (named.length > 0 === (flags.all === true)) throw usageFailure('give either devices or --all');
      const client = await connect(flags);
      const devices = flags.all === true ? 'all' : named;
      const { items } = await client.call(routes.driftReconcile, { body: { devices } });
      if (flags.json === true) return printJson(items);
      if (items.length === 0) print('No device drifts.');
      for (const rollout of items)
        print(
          `${rollout.id}: ${rollout.devices} ${rollout.devices === 1 ? 'device' : 'devices'} back to ${rollout.release}; sluice rollout watch ${rollout.id}`,
        );
    });
  withExamples(reconcile, [
    ['One device', 'sluice device reconcile gw-01'],
    ['All of them', 'sluice device reconcile --all'],
  ]);
};

const addAdopt = (group: Command): void => {
  const adopt = withServer(group.command('adopt'))
    .description('Make what a drifted device runs what it should run')
    .argument('<device>', 'its id', id)
    .option('--note <text>', 'why, for the audit log', '')
    .action(async (device: Id, flags: ServerFlags & { note: string }) => {
      const call = { params: { device }, body: { note: flags.note } };
      const view = await (await connect(flags)).call(routes.deviceAdopt, call);
      if (flags.json === true) return printJson(view);
      print(`${view.device} should run ${refOf(view.expected)} from now on.`);
    });
  withExamples(adopt, [['It was meant to be so', 'sluice device adopt gw-01 --note "field test"']]);
};
