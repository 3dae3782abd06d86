/** `sluice rollout recall`: devices that committed a release go back to what they ran before it. */
import type { Command } from 'commander';
import { routes } from '#shared/api.ts';
import type { Id } from '#shared/ids.ts';
import type { RolloutView } from '#shared/views.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { type Cell, print, printJson, table } from '../terminal.ts';
import { id } from '../values.ts';

/** Below a rollout: who goes back with which rollout, and who cannot; empty where it was not recalled. */
export const describeRecall = ({ recall }: Pick<RolloutView, 'recall'>): string => {
  if (recall === null) return '';
  const going = recall.rollouts.map((one): Cell[] => [one.id, one.release, one.devices]);
  const staying = recall.stays.map(({ why, devices, named }): Cell[] => {
    const more = devices > named.length ? `, and ${devices - named.length} more` : '';
    return [why, devices, `${named.join(', ')}${more}`];
  });
  return [
    going.length === 0 ? '' : `\n\n${table(['RECALLED WITH', 'BACK TO', 'DEVICES'], going)}`,
    staying.length === 0 ? '' : `\n\n${table(['CANNOT GO BACK', 'DEVICES', 'WHICH'], staying)}`,
  ].join('');
};

export const addRecall = (group: Command): void => {
  const command = withServer(group.command('recall'))
    .description('Send the devices that committed the release back to what each ran before it, from their other slot')
    .argument('<rollout>', 'its id; halted, aborted or completed', id)
    .option('--note <text>', 'why, for the audit log', '')
    .option('--to <version>', 'all of them to this release instead, as far as their security floor allows')
    .action(async (rollout: Id, flags: ServerFlags & { note: string; to?: string }) => {
      const { note, to } = flags;
      const body = { note, ...(to === undefined ? {} : { to }) };
      const view = await (await connect(flags)).call(routes.rolloutRecall, { params: { rollout }, body });
      if (flags.json === true) return printJson(view);
      const told = to === undefined ? view.notices : [...view.notices, view.explanation];
      if (view.notices.length > 0) return print(told.join('\n'));
      print(`${view.explanation}${describeRecall(view)}`);
      const back = view.recall?.rollouts ?? [];
      if (back.length > 0) print(`\nFollow it with:${back.map(({ id }) => `\n  sluice rollout watch ${id}`).join('')}`);
    });
  withExamples(command, [
    ['After a halt: back to what ran before', 'sluice rollout recall ro-5sjqphnd --note "GW-31"'],
    ['Back to a release by name', 'sluice rollout recall ro-5sjqphnd --to 1.2.0 --note "GW-31"'],
  ]);
};
