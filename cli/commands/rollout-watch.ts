/** `sluice rollout watch`: a rollout followed to its end, live on a terminal, line by line elsewhere. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Command } from 'commander';
import { routes } from '#shared/api.ts';
import type { Id } from '#shared/ids.ts';
import type { RolloutView } from '#shared/views.ts';
import type { Client } from '../client.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { CliFailure, EXIT } from '../failure.ts';
import { formatTime, liveTerminal, print, printJson } from '../terminal.ts';
import { duration, id } from '../values.ts';
import { countsOf, describeRollout } from './rollout-words.ts';

const WATCH_MS = 1000;

const ended = (rollout: RolloutView): boolean => ['completed', 'halted', 'aborted'].includes(rollout.state);

/** Shows a rollout until it completes, halts or is aborted, and throws when that is not a completion. */
export const watch = async (
  client: Client,
  rollout: Id,
  flags: { json?: boolean; timeout?: number },
): Promise<void> => {
  const until = flags.timeout === undefined ? Number.POSITIVE_INFINITY : performance.now() + flags.timeout;
  let last = '';
  let lines = 0;
  for (;;) {
    const view = await client.call(routes.rolloutShow, { params: { rollout } });
    const news = newsOf(view);
    if (flags.json !== true && liveTerminal()) lines = redraw(describeRollout(view), lines);
    else if (news !== last && flags.json === true) printJson(view);
    else if (news !== last)
      print(`${formatTime(Date.now())}  ${view.state}  ${countsOf(view.counts)}  ${view.explanation}`);
    last = news;
    if (ended(view)) return finish(view);
    if (performance.now() > until) throw new CliFailure(`${rollout} is still ${view.state} after ${flags.timeout} ms`);
    await pause(WATCH_MS);
  }
};
/** What deserves a line of its own: a number in the explanation does not, as it runs down or follows the counts. */
const newsOf = ({ state, wave, counts, explanation }: RolloutView): string =>
  JSON.stringify([state, wave, counts, explanation.replaceAll(/( ?\d+(\.\d+)?( (d|h|min|s)\b)?)+/g, '')]);
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

export const addWatch = (group: Command): void => {
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
