/** `sluice rollout`: one campaign of one release, wave by wave. */
import { setTimeout as pause } from 'node:timers/promises';
import { type Command, Option } from 'commander';
import type { z } from 'zod';
import { routes } from '#shared/api.ts';
import { DID } from '#shared/deployment.ts';
import { Id, ReleaseRef } from '#shared/ids.ts';
import { type CohortPlan, type Policy, URGENT_PRIORITY } from '#shared/policy.ts';
import type { DeploymentView, QueuedView, RolloutView } from '#shared/views.ts';
import type { MaintenanceWindow } from '#shared/windows.ts';
import { type Client, listAll } from '../client.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { CliFailure, EXIT, usageFailure } from '../failure.ts';
import { type Cell, facts, formatTime, liveTerminal, paint, print, printError, printJson, table } from '../terminal.ts';
import { timingFacts } from '../timing-words.ts';
import {
  cohortPlan,
  cohortWindow,
  collect,
  deadline,
  duration,
  id,
  maintenanceWindow,
  moment,
  pair,
  readPolicy,
  wholeNumber,
} from '../values.ts';
import { addRecall, describeRecall } from './recall.ts';
import { addExplain } from './rollout-explain.ts';

const WATCH_MS = 1000;

const stateOf = ({ state }: RolloutView): { text: string; paint: (text: string) => string } => {
  const colour = { running: paint.cyan, completed: paint.green, halted: paint.red, aborted: paint.red } as Record<
    string,
    typeof paint.red
  >;
  return { text: state, paint: colour[state] ?? paint.yellow };
};
/** `2 silent in trial, 1 never-heard`. */
const overdueOf = (overdue: RolloutView['overdue']): string =>
  overdue
    .map((one) => `${one.devices} ${one.class}${one.class === 'never-heard' ? '' : ` in ${one.reached}`}`)
    .join(', ');
const placeOf = ({ state, overdue, reached }: DeploymentView): string =>
  overdue === null ? state : `${state}, ${overdue}${overdue === 'never-heard' ? '' : ` in ${reached}`}`;
/** `committed 6, trial 2`: only the states that somebody is in. */
const countsOf = (counts: RolloutView['counts']): string =>
  Object.entries(counts)
    .filter(([, devices]) => devices > 0)
    .map(([state, devices]) => `${state} ${devices}`)
    .join(', ');
const plansOf = (plans: z.output<typeof CohortPlan>[]): string =>
  plans
    .map(
      ({ cohort, waves }) =>
        `${cohort}=${waves.map((wave) => ('count' in wave ? wave.count : `${wave.percent}%`)).join(',')}`,
    )
    .join(' ');

/** A device that waits for another attempt. */
const againOf = ({ state, attempts }: DeploymentView): string =>
  state !== 'planned' || attempts === null || attempts.notBefore === null
    ? ''
    : ` (attempt ${attempts.ended + 1} from ${formatTime(attempts.notBefore)})`;

const describeRollout = (rollout: RolloutView): string => {
  const pairs: [string, Cell][] = [
    ['rollout', { text: rollout.id, paint: paint.bold }],
    ['release', `${rollout.release} in ${rollout.channel}`],
    ['state', stateOf(rollout)],
    ['why', rollout.explanation],
    ['cohorts', plansOf(rollout.cohorts)],
    ...timingFacts(rollout),
    ['devices', `${rollout.devices}: ${countsOf(rollout.counts)}; ${rollout.untouched} untouched`],
    ...(rollout.overdue.length === 0 ? [] : [['overdue', overdueOf(rollout.overdue)] satisfies [string, Cell]]),
    ['created', `${formatTime(rollout.createdAt)} by ${rollout.createdBy}`],
  ];
  // People count waves from 1, as the explanation does; JSON keeps the API's index.
  const rows = rollout.waves.map((wave, index): Cell[] => [
    index + 1,
    wave.devices,
    index === rollout.wave ? { text: countsOf(wave.counts), paint: paint.cyan } : countsOf(wave.counts),
  ]);
  return `${facts(pairs)}\n\n${table(['WAVE', 'DEVICES', 'STATES'], rows)}${describeRecall(rollout)}`;
};

const ended = (rollout: RolloutView): boolean => ['completed', 'halted', 'aborted'].includes(rollout.state);

/** Shows a rollout until it completes, halts or is aborted, and throws when that is not a completion. */
const watch = async (client: Client, rollout: Id, flags: { json?: boolean; timeout?: number }): Promise<void> => {
  const until = flags.timeout === undefined ? Number.POSITIVE_INFINITY : performance.now() + flags.timeout;
  let last = '';
  let lastNews = '';
  let lines = 0;
  for (;;) {
    const view = await client.call(routes.rolloutShow, { params: { rollout } });
    const text = JSON.stringify([view.state, view.wave, view.counts, withoutCountdown(view.explanation)]);
    if (text !== last && flags.json === true) printJson(view);
    else if (liveTerminal() && flags.json !== true) lines = redraw(describeRollout(view), lines);
    else if (newsOf(view) !== lastNews)
      print(`${formatTime(Date.now())}  ${view.state}  ${countsOf(view.counts)}  ${view.explanation}`);
    last = text;
    lastNews = newsOf(view);
    if (ended(view)) return finish(view);
    if (performance.now() > until) throw new CliFailure(`${rollout} is still ${view.state} after ${flags.timeout} ms`);
    await pause(WATCH_MS);
  }
};
/** A time that only runs down is no change worth a line of its own. */
const withoutCountdown = (explanation: string): string => explanation.replace(/\d+ (?:ms|s|min|h|days)\b/g, '');
/** What deserves a new line in a log: a countdown that went on does not. */
const newsOf = (view: RolloutView): string =>
  JSON.stringify([view.state, view.wave, view.counts, view.explanation.replaceAll(/\d+/g, '')]);
const finish = (view: RolloutView): void => {
  if (view.state === 'halted')
    throw new CliFailure(`${view.id} halted: ${view.explanation}`, { exitCode: EXIT.halted });
  if (view.state === 'aborted')
    throw new CliFailure(`${view.id} was aborted: ${view.explanation}`, { exitCode: EXIT.aborted });
};
const redraw = (text: string, linesBefore: number): number => {
  if (linesBefore > 0) process.stdout.write(`\u001b[${linesBefore}A\u001b[0J`);
  print(text);
  const columns = process.stdout.columns || 80;
  return text.split('\n').reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / columns)), 0);
};

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

const addCreate = (group: Command): void => {
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
      new Option('--on-halt <what>', 'after a halt: wait for a person, or send back at once whoever committed').choices(
        ['hold', 'recall'],
      ),
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
    ['Canaries first, then everybody', 'sluice rollout create gateway@1.1.0 --cohort canary --cohort everyone'],
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
      'Should it halt, whoever committed goes back at once',
      'sluice rollout create gateway@1.1.0 --cohort everyone=10%,100% --on-halt recall',
    ],
    [
      'At night where each device is, activated together',
      'sluice rollout create gateway@1.2.0 --cohort everyone --window "0 2 * * * for 3h" --activate-on-command',
    ],
  ]);
};

/** A selector that matches nobody, mistyped perhaps, would take the canaries away without a word. */
const warnOfEmpty = async (client: Client, plans: CreateFlags['cohort']): Promise<void> => {
  for (const { cohort } of plans) {
    const { devices } = await client.call(routes.cohortShow, { params: { cohort: Id.parse(cohort) } });
    if (devices === 0) printError(`warning: nobody is in cohort ${cohort}; the rollout goes on without it`);
  }
};

const addWatch = (group: Command): void => {
  const command = withServer(group.command('watch'))
    .description('Watch a rollout to its end; exit code 0 when it completed, 4 halted, 5 aborted')
    .argument('<rollout>', 'its id', id)
    .option('--timeout <time>', 'give up after this long (exit code 1)', duration)
    .action(async (rollout: Id, flags: ServerFlags & { timeout?: number }) =>
      watch(await connect(flags), rollout, flags),
    );
  withExamples(command, [
    ['Live', 'sluice rollout watch ro-5sjqphnd'],
    ['In a pipeline, one JSON line for every change', 'sluice rollout watch ro-5sjqphnd --json --timeout 2h'],
  ]);
};

const deploymentsOf = (client: Client, rollout: Id): Promise<DeploymentView[]> =>
  listAll(
    (query: { after?: string; limit: number }) =>
      client.call(routes.rolloutDeployments, { params: { rollout }, query }),
    100_000,
  );

const NAMED_MAX = 20;
/** Which devices have done what so far. */
const describeDid = (deployments: DeploymentView[]): string => {
  const rows = DID.map((did): Cell[] => {
    const devices = deployments.filter((one) => one.did === did).map(({ device }) => device);
    const more = devices.length > NAMED_MAX ? `, and ${devices.length - NAMED_MAX} more` : '';
    return [did, devices.length, `${devices.slice(0, NAMED_MAX).join(', ')}${more}`];
  });
  return table(
    ['DID', 'DEVICES', 'WHICH'],
    rows.filter(([, devices]) => devices !== 0),
  );
};

/** `all`, or ids with commas between them. */
const failuresToAcknowledge = (text: string): 'all' | Id[] => (text === 'all' ? text : text.split(',').map(id));

const addResume = (group: Command): void => {
  const command = withServer(group.command('resume'))
    .description('Go on after a pause, or after a halt')
    .argument('<rollout>', 'its id', id)
    .option('--note <text>', 'why, for the audit log; needed after a halt', '')
    .option(
      '--acknowledge-failures <devices>',
      'whose failures no longer count: ids with commas, or all; all, after a halt, unless told otherwise',
      failuresToAcknowledge,
    )
    .action(async (rollout: Id, flags: ServerFlags & { note: string; acknowledgeFailures?: 'all' | Id[] }) => {
      const { note, acknowledgeFailures } = flags;
      const body = { note, ...(acknowledgeFailures === undefined ? {} : { acknowledgeFailures }) };
      const view = await (await connect(flags)).call(routes.rolloutResume, { params: { rollout }, body });
      if (flags.json === true) return printJson(view);
      print(describeRollout(view));
    });
  withExamples(command, [
    ['Go on after a pause', 'sluice rollout resume ro-5sjqphnd'],
    [
      'After a halt: these two stood in water, the others still count',
      'sluice rollout resume ro-5sjqphnd --note "flooded cabinet" --acknowledge-failures gw-17,gw-18',
    ],
  ]);
};

const addVerb = (
  group: Command,
  verb: 'pause' | 'approve' | 'activate' | 'abort',
  description: string,
  example: [string, string],
): void => {
  const route = {
    pause: routes.rolloutPause,
    approve: routes.rolloutApprove,
    activate: routes.rolloutActivate,
    abort: routes.rolloutAbort,
  }[verb];
  const command = withServer(group.command(verb))
    .description(description)
    .argument('<rollout>', 'its id', id)
    .option('--note <text>', 'why, for the audit log', '')
    .action(async (rollout: Id, flags: ServerFlags & { note: string }) => {
      const client = await connect(flags);
      const view = await client.call(route, { params: { rollout }, body: { note: flags.note } });
      // Whoever stops a fleet halfway wants to know which half.
      const deployments = verb === 'abort' ? await deploymentsOf(client, rollout) : undefined;
      if (flags.json === true) return printJson(deployments === undefined ? view : { ...view, deployments });
      print(describeRollout(view));
      if (deployments !== undefined) print(`\n${describeDid(deployments)}`);
    });
  withExamples(command, [example]);
};

const waitsOf = ({ waitsFor, coolingDown }: z.infer<typeof QueuedView>): string =>
  [
    ...waitsFor.map(({ rollout, devices }) => `${devices} with ${rollout}`),
    ...(coolingDown === null ? [] : [`${coolingDown.devices} cooling down until ${formatTime(coolingDown.next)}`]),
  ].join(', ');

const addQueue = (group: Command): void => {
  const command = withServer(group.command('queue'))
    .description('Rollouts that are not over, in the order in which they get devices, and whom each waits for')
    .action(async (flags: ServerFlags) => {
      const { items } = await (await connect(flags)).call(routes.rolloutQueue, {});
      if (flags.json === true) return printJson(items);
      const rows = items.map((one): Cell[] => [
        one.id,
        one.release,
        one.priority,
        stateOf(one),
        countsOf(one.counts),
        waitsOf(one),
      ]);
      print(table(['ROLLOUT', 'RELEASE', 'PRIORITY', 'STATE', 'STATES', 'WAITS FOR'], rows));
    });
  withExamples(command, [['Who comes first, and who waits', 'sluice rollout queue']]);
};

export const addRollout = (program: Command): void => {
  const group = program.command('rollout').description('Rollouts: start them, watch them, stop them');
  addCreate(group);
  withExamples(
    withServer(group.command('list'))
      .description('List rollouts, newest first')
      .option('--limit <n>', 'at most so many', wholeNumber, 50)
      .action(async (flags: ServerFlags & { limit: number }) => {
        const client = await connect(flags);
        const items = await listAll((query) => client.call(routes.rolloutList, { query }), flags.limit);
        if (flags.json === true) return printJson(items);
        const rows = items.map((one): Cell[] => [
          one.id,
          one.release,
          stateOf(one),
          one.devices,
          countsOf(one.counts),
          formatTime(one.createdAt),
        ]);
        print(table(['ROLLOUT', 'RELEASE', 'STATE', 'DEVICES', 'STATES', 'CREATED'], rows));
      }),
    [['What goes on', 'sluice rollout list --limit 10']],
  );
  const show = withServer(group.command('show'))
    .description('Show one rollout: why it is where it is, and its waves')
    .argument('<rollout>', 'its id', id)
    .option('--devices', 'and where every device is')
    .action(async (rollout: Id, flags: ServerFlags & { devices?: boolean }) => {
      const client = await connect(flags);
      const view = await client.call(routes.rolloutShow, { params: { rollout } });
      const deployments = flags.devices === true ? await deploymentsOf(client, rollout) : undefined;
      if (flags.json === true) return printJson(deployments === undefined ? view : { ...view, deployments });
      print(describeRollout(view));
      if (deployments === undefined) return;
      const rows = deployments.map((one) => [
        one.device,
        one.wave + 1,
        placeOf(one),
        one.did,
        formatTime(one.stateAt),
        `${one.error === null ? '' : `${one.error.code}: ${one.error.message}`}${againOf(one)}`,
      ]);
      print(`\n${describeDid(deployments)}`);
      print(`\n${table(['DEVICE', 'WAVE', 'STATE', 'DID', 'SINCE', 'ERROR'], rows)}`);
    });
  withExamples(show, [['Where is every device?', 'sluice rollout show ro-5sjqphnd --devices']]);
  addWatch(group);
  addExplain(group);
  addVerb(group, 'pause', 'Offer to nobody new until resumed', [
    'Wait',
    'sluice rollout pause ro-5sjqphnd --note "the network is down in Lyon"',
  ]);
  addResume(group);
  addVerb(group, 'approve', 'Approve a rollout that waits for it; its author can not', [
    'The second pair of eyes',
    'sluice rollout approve ro-5sjqphnd --note "the waves are fine"',
  ]);
  addVerb(group, 'activate', 'Let every device that has installed the release activate it', [
    'Switch the fleet over',
    'sluice rollout activate ro-5sjqphnd --note "the release party"',
  ]);
  addQueue(group);
  addVerb(group, 'abort', 'End a rollout for good: offers not acted on are withdrawn, trials in progress finish', [
    'Stop',
    'sluice rollout abort ro-5sjqphnd --note "GW-31"',
  ]);
  addRecall(group);
};
