/** `sluice rollout create`: a staged release planned for cohorts, in waves, and started. */
import { type Command, Option } from 'commander';
import type { z } from 'zod';
import { routes } from '#shared/api.ts';
import { Id, ReleaseRef } from '#shared/ids.ts';
import { type CohortPlan, type Policy, URGENT_PRIORITY } from '#shared/policy.ts';
import type { MaintenanceWindow } from '#shared/windows.ts';
import type { Client } from '../client.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { usageFailure } from '../failure.ts';
import { print, printError, printJson } from '../terminal.ts';
import {
  cohortPlan,
  cohortWindow,
  collect,
  deadline,
  id,
  maintenanceWindow,
  moment,
  pair,
  readPolicy,
  wholeNumber,
} from '../values.ts';
import { watch } from './rollout-watch.ts';
import { describeRollout } from './rollout-words.ts';

type CreateFlags = ServerFlags & {
  cohort: z.input<typeof CohortPlan>[];
  channel: Id;
  policy?: string;
  set?: [string, string][];
  deadline?: [string, string][];
  startAt?: number;
  endBy?: number;
  window?: z.input<typeof MaintenanceWindow>[];
  cohortWindow?: [string, z.input<typeof MaintenanceWindow>][];
  activateAt?: number;
  activateOnCommand?: boolean;
  priority?: number;
  urgent?: boolean;
  onHalt?: 'hold' | 'recall';
  follow?: boolean;
  watch?: boolean;
};

/** The part of the policy that has flags of its own. */
const steeringOf = (flags: CreateFlags): z.input<typeof Policy> => {
  if (flags.activateAt !== undefined && flags.activateOnCommand === true)
    throw usageFailure('give either --activate-at or --activate-on-command');
  if (flags.priority !== undefined && flags.urgent === true) throw usageFailure('give either --priority or --urgent');
  const activation = flags.activateOnCommand === true ? 'on-command' : flags.activateAt;
  const priority = flags.priority ?? (flags.urgent === true ? URGENT_PRIORITY : undefined);
  return {
    ...(flags.window === undefined ? {} : { windows: flags.window }),
    ...(activation === undefined ? {} : { activation }),
    ...(priority === undefined ? {} : { priority }),
    ...(flags.onHalt === undefined ? {} : { onHalt: flags.onHalt }),
  };
};
const cohortsOf = (flags: CreateFlags): z.input<typeof CohortPlan>[] => {
  const own = flags.cohortWindow ?? [];
  const stranger = own.find(([cohort]) => flags.cohort.every((plan) => plan.cohort !== cohort));
  if (stranger !== undefined) throw usageFailure(`--cohort-window names ${stranger[0]}, which is no --cohort`);
  return flags.cohort.map((plan) => {
    const windows = own.filter(([cohort]) => cohort === plan.cohort).map(([, window]) => window);
    return {
      ...plan,
      ...(windows.length === 0 ? {} : { windows }),
      ...(flags.follow === true ? { follow: true } : {}),
    };
  });
};

export const addCreate = (group: Command): void => {
  const create = withServer(group.command('create'))
    .description('Plan a rollout of a staged release and start it')
    .argument('<release>', 'product@version')
    .requiredOption(
      '--cohort <cohort[=waves]>',
      'who, in order; waves are cumulative devices or percent, as in everyone=2,50%,100%; repeatable',
      collect(cohortPlan),
    )
    .option('--channel <channel>', 'where the release is staged', id, Id.parse('production'))
    .option('--policy <file>', 'policy, YAML or JSON (docs/judge.md); every field has a safe default')
    .option(
      '--set <path=value>',
      'one field of the policy, such as judge.budget=5 or gate.soakMs=600000; repeatable',
      collect(pair),
    )
    .option(
      '--deadline <step=time>',
      'how long a device may take to accept, fetch, install, be ready, be on trial (trial), or for all of it from acceptance (outcome), as in trial=10m; repeatable',
      collect(deadline),
    )
    .option('--start-at <time>', 'when: 2026-12-01T02:00:00Z, or +15m', moment)
    .option('--end-by <time>', 'it is over by then, done or not', moment)
    .option(
      '--window <window>',
      'only then: "0 2 * * 1-5 for 2h in Europe/Paris", in the device\'s own time zone where it reports one; "only in" for all; repeatable',
      collect(maintenanceWindow),
    )
    .option('--cohort-window <cohort=window>', 'another window for this cohort; repeatable', collect(cohortWindow))
    .option('--activate-at <time>', 'install now, activate together at this time', moment)
    .option('--activate-on-command', 'install now, activate when told by rollout activate')
    .option('--priority <0-100>', 'takes devices over from lower ones (default 50)', wholeNumber)
    .option('--urgent', `priority ${URGENT_PRIORITY}`)
    .addOption(
      new Option(
        '--on-halt <what>',
        'after a halt: wait for a person, or send back at once the devices that committed',
      ).choices(['hold', 'recall']),
    )
    .option('--follow', 'enrol devices that come to match its cohorts later, into the last wave')
    .option('--watch', 'go on watching it; see rollout watch for the exit codes')
    .action(async (text: string, flags: CreateFlags) => {
      const release = ReleaseRef.safeParse(text);
      if (!release.success) throw usageFailure(`${text} ${release.error.issues[0]?.message}`);
      const policy = {
        ...(await readPolicy(flags.policy, [...(flags.set ?? []), ...(flags.deadline ?? [])])),
        ...steeringOf(flags),
      };
      const client = await connect(flags);
      const body = { release: release.data, channel: flags.channel, cohorts: cohortsOf(flags), policy };
      const start = {
        ...(flags.startAt === undefined ? {} : { startAt: flags.startAt }),
        ...(flags.endBy === undefined ? {} : { endBy: flags.endBy }),
      };
      const view = await client.call(routes.rolloutCreate, { body: { ...body, ...start } });
      for (const notice of view.notices) printError(`warning: ${notice}`);
      await warnOfEmpty(client, flags.cohort);
      if (flags.watch === true) return watch(client, view.id, flags);
      if (flags.json === true) return printJson(view);
      print(describeRollout(view));
      print(`\nFollow it with: sluice rollout watch ${view.id}`);
    });
  withExamples(create, [
    ['Canaries first, then everyone', 'sluice rollout create gateway@1.1.0 --cohort canary --cohort everyone'],
    [
      'In waves, tonight, harming five devices at most',
      'sluice rollout create gateway@1.1.0 --cohort everyone=2,10%,50%,100% --set judge.budget=5 --start-at 2026-12-01T02:00:00Z',
    ],
    [
      'A device that hangs is noticed soon',
      'sluice rollout create gateway@1.1.0 --cohort everyone --deadline fetch=30m --deadline trial=5m',
    ],
    ['A hotfix, before all others', 'sluice rollout create gateway@1.1.1 --cohort everyone --urgent'],
    [
      'Should it halt, devices that committed go back at once',
      'sluice rollout create gateway@1.1.0 --cohort everyone=10%,100% --on-halt recall',
    ],
    [
      'At night where each device is, activated together',
      'sluice rollout create gateway@1.2.0 --cohort everyone --window "0 2 * * * for 3h" --activate-on-command',
    ],
  ]);
};

/** A selector that matches no one, mistyped perhaps, would take the canaries away without a word. */
const warnOfEmpty = async (client: Client, plans: CreateFlags['cohort']): Promise<void> => {
  for (const { cohort } of plans) {
    const { devices } = await client.call(routes.cohortShow, { params: { cohort: Id.parse(cohort) } });
    if (devices === 0) printError(`warning: no one is in cohort ${cohort}; the rollout goes on without it`);
  }
};
