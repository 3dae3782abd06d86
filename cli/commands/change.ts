/** `sluice change`: an issue or a commit, followed from the release to the devices. */
import type { Command } from 'commander';
import { routes } from '#shared/api.ts';
import { listAll } from '../client.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { facts, paint, print, printJson, table } from '../terminal.ts';
import { wholeNumber } from '../values.ts';

export const addChange = (program: Command): void => {
  const group = program.command('change').description('Changes: where they are');
  const show = withServer(group.command('show'))
    .description('Show which releases contain a change, in which channels, and which devices run it')
    .argument('<change>', 'an issue or a commit, as bundles name it')
    .option('--limit <n>', 'at most so many devices', wholeNumber, 100)
    .action(async (change: string, flags: ServerFlags & { limit: number }) => {
      const client = await connect(flags);
      const view = await client.call(routes.changeShow, { params: { change } });
      const call = (query: { after?: string; limit: number }) =>
        client.call(routes.changeDevices, { params: { change }, query });
      const devices = await listAll(call, flags.limit);
      if (flags.json === true) return printJson({ ...view, devices });
      const share = `${view.running} of ${view.fleet} devices (${Math.floor(view.share * 1000) / 10} %)`;
      print(
        facts([
          ['change', { text: view.change, paint: paint.bold }],
          ['runs on', share],
        ]),
      );
      const rows = view.releases.map(({ release, state, channels, bundles }) => [
        release,
        bundles.map(({ compatible }) => compatible).join(', '),
        state === 'staged' ? channels.join(', ') : `(${state})`,
        bundles.reduce((sum, bundle) => sum + bundle.devices, 0),
      ]);
      print(`\n${table(['RELEASE', 'COMPATIBLE', 'CHANNELS', 'DEVICES'], rows)}`);
      if (devices.length === 0) return;
      const running = devices.map(({ device, release, compatible, online }) => [
        device,
        release,
        compatible,
        online ? 'online' : 'offline',
      ]);
      print(`\n${table(['DEVICE', 'RUNS', 'COMPATIBLE', ''], running)}`);
      if (view.running > devices.length) print(`and ${view.running - devices.length} more: --limit ${view.running}`);
    });
  withExamples(show, [
    ['Is the fix out?', 'sluice change show GW-1234'],
    ['Every device that has it, for a script', 'sluice change show GW-1234 --limit 100000 --json'],
  ]);
};

/** `sluice release diff`. */
export const addDiff = (group: Command): void => {
  const command = withServer(group.command('diff'))
    .description('List the changes that one release contains and the other does not')
    .argument('<from>', 'product@version')
    .argument('<to>', 'product@version')
    .action(async (release: string, other: string, flags: ServerFlags) => {
      const view = await (await connect(flags)).call(routes.releaseDiff, { params: { release, other } });
      if (flags.json === true) return printJson(view);
      const rows = [
        ...view.added.map((one) => [{ text: '+', paint: paint.green }, one.change, one.compatibles.join(', ')]),
        ...view.removed.map((one) => [{ text: '-', paint: paint.red }, one.change, one.compatibles.join(', ')]),
      ];
      if (rows.length === 0) return print(`${other} names the same changes as ${release}.`);
      print(table(['', 'CHANGE', 'COMPATIBLE'], rows));
    });
  withExamples(command, [['What would this rollout bring?', 'sluice release diff gateway@1.0.0 gateway@1.1.0']]);
};
