/** `sluice cohort`: named selections of devices. */
import type { Command } from 'commander';
import type { z } from 'zod';
import { routes } from '#shared/api.ts';
import type { Id } from '#shared/ids.ts';
import { type CohortView } from '#shared/views.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { usageFailure } from '../failure.ts';
import { facts, formatTime, paint, print, printJson, table } from '../terminal.ts';
import { collect, id } from '../values.ts';

type Cohort = z.infer<typeof CohortView>;
const membersOf = ({ members }: Cohort): string =>
  members.kind === 'selector'
    ? members.selector
    : members.devices.slice(0, 20).join(' ') + (members.devices.length > 20 ? ' ...' : '');

const showCohort = (cohort: Cohort): void =>
  print(
    facts([
      ['cohort', { text: cohort.name, paint: paint.bold }],
      [cohort.members.kind === 'selector' ? 'selector' : 'list', membersOf(cohort)],
      ['devices now', cohort.devices],
      ['created', formatTime(cohort.createdAt)],
    ]),
  );

export const addCohort = (program: Command): void => {
  const group = program.command('cohort').description('Cohorts: named selections of devices');
  const create = withServer(group.command('create'))
    .description(
      'Name a selection of devices, by selector or as a list; a rollout freezes who is in it when it is planned',
    )
    .argument('<cohort>', 'its name', id)
    .option('--selector <selector>', 'tags and attributes, such as: site=lyon and model in (gw2, gw3)')
    .option('--device <id>', 'this device; repeatable', collect(id))
    .action(async (name: Id, flags: ServerFlags & { selector?: string; device?: Id[] }) => {
      const { selector, device: devices } = flags;
      if ((selector === undefined) === (devices === undefined))
        throw usageFailure('give either --selector or --device');
      const body = selector === undefined ? { name, devices: devices! } : { name, selector };
      const cohort = await (await connect(flags)).call(routes.cohortCreate, { body });
      if (flags.json === true) return printJson(cohort);
      showCohort(cohort);
    });
  withExamples(create, [
    ['By tags', "sluice cohort create lyon --selector 'site=lyon and model in (gw2, gw3)'"],
    ['By name', 'sluice cohort create canary --device gw-01 --device gw-02'],
  ]);
  withExamples(
    withServer(group.command('list'))
      .description('List the cohorts')
      .action(async (flags: ServerFlags) => {
        const { items } = await (await connect(flags)).call(routes.cohortList, {});
        if (flags.json === true) return printJson(items);
        const rows = items.map((cohort) => [cohort.name, cohort.devices, membersOf(cohort)]);
        print(table(['COHORT', 'DEVICES', 'WHO'], rows));
      }),
    [['What is there', 'sluice cohort list']],
  );
  withExamples(
    withServer(group.command('show'))
      .description('Show one cohort')
      .argument('<cohort>', 'its name', id)
      .action(async (cohort: Id, flags: ServerFlags) => {
        const view = await (await connect(flags)).call(routes.cohortShow, { params: { cohort } });
        if (flags.json === true) return printJson(view);
        showCohort(view);
      }),
    [['Who is in it now', 'sluice cohort show canary']],
  );
};
