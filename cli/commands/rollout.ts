/** `sluice rollout`: one campaign of one release, wave by wave. */
import type { Command } from 'commander';
import { routes } from '#shared/api.ts';
import type { Id } from '#shared/ids.ts';
import type { DeploymentView } from '#shared/views.ts';
import { type Client, listAll } from '../client.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { type Cell, formatTime, print, printJson, table } from '../terminal.ts';
import { id, wholeNumber } from '../values.ts';
import { addRecall } from './recall.ts';
import { addCreate } from './rollout-create.ts';
import { addExplain } from './rollout-explain.ts';
import { addWatch } from './rollout-watch.ts';
import { againOf, countsOf, describeDid, describeRollout, placeOf, stateOf, waitsOf } from './rollout-words.ts';

const deploymentsOf = (client: Client, rollout: Id): Promise<DeploymentView[]> =>
  listAll(
    (query: { after?: string; limit: number }) =>
      client.call(routes.rolloutDeployments, { params: { rollout }, query }),
    100_000,
  );

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
      // A person who stops a fleet halfway wants to know which half.
      const deployments = verb === 'abort' ? await deploymentsOf(client, rollout) : undefined;
      if (flags.json === true) return printJson(deployments === undefined ? view : { ...view, deployments });
      print(describeRollout(view));
      if (deployments !== undefined) print(`\n${describeDid(deployments)}`);
    });
  withExamples(command, [example]);
};

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
  addVerb(group, 'pause', 'Offer to no one new until resumed', [
    'Wait',
    'sluice rollout pause ro-5sjqphnd --note "the network is down in Lyon"',
  ]);
  addResume(group);
  addVerb(group, 'approve', 'Approve a rollout that waits for it; its author cannot', [
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
