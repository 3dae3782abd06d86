/** `sluice rollout explain`: why a rollout is where it is, and why it decided what it did. */
import type { Command } from 'commander';
import { routes } from '#shared/api.ts';
import type { DecisionView, ExplanationView } from '#shared/explanation.ts';
import type { Id } from '#shared/ids.ts';
import type { Client } from '../client.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { CliFailure } from '../failure.ts';
import { formatTime, harmless, paint, print, printJson } from '../terminal.ts';
import { id, wholeNumber } from '../values.ts';

const PAGE = 100;

type Flags = ServerFlags & { limit: number; after?: number; brief?: boolean; verify?: boolean };

/** What each reason is about, once for all that are about the same. */
const reasonLines = (reasons: ExplanationView['now']['reasons']): string[] => {
  const width = Math.max(0, ...reasons.map(({ about }) => about.length));
  return reasons.map(({ about, sentence }, index) => {
    const label = reasons[index - 1]?.about === about ? '' : about;
    return `    ${paint.dim(harmless(label).padEnd(width))}  ${harmless(sentence)}`;
  });
};

const decisionLines = (one: DecisionView, brief: boolean): string[] => [
  `${paint.bold(`#${one.decision}`)}  ${formatTime(one.at)}  ${harmless(one.sentence)}`,
  ...(brief ? [] : reasonLines(one.reasons)),
  ...(one.faults ?? []).map((fault) => `    ${paint.red(harmless(fault))}`),
];

/** As many decisions as are wanted, newest first, with what holds now. */
const explain = async (client: Client, rollout: Id, flags: Flags): Promise<ExplanationView> => {
  const most = flags.verify === true ? Number.POSITIVE_INFINITY : flags.limit;
  let after = flags.after;
  let all: ExplanationView | undefined;
  for (;;) {
    const limit = Math.min(PAGE, most - (all?.items.length ?? 0));
    const query = { limit, verify: flags.verify === true ? ('true' as const) : ('false' as const) };
    const page = await client.call(routes.rolloutExplain, {
      params: { rollout },
      query: after === undefined ? query : { ...query, after: String(after) },
    });
    all = all === undefined ? page : { ...all, items: [...all.items, ...page.items], next: page.next };
    if (all.next === null || all.items.length >= most) return all;
    after = Number(all.next);
  }
};

/** What is no more there before the oldest one, and the entry of the audit log that says so. */
const prunedOf = ({ items }: ExplanationView): { decisions: number; words: string } => {
  const oldest = items.at(-1);
  if (oldest === undefined || oldest.pruned === null) return { decisions: 0, words: '' };
  const decisions = oldest.decision - 1;
  const words = `${decisions} earlier ${decisions === 1 ? 'decision was' : 'decisions were'} pruned, as entry ${oldest.pruned} of the audit log says`;
  return { decisions, words };
};

const show = (view: ExplanationView, flags: Flags): void => {
  if (flags.after === undefined) {
    print(`${paint.bold('now')}  ${formatTime(view.now.at)}  ${harmless(view.now.explanation)}`);
    for (const text of reasonLines(view.now.reasons)) print(text);
  }
  for (const one of view.items) {
    print();
    for (const text of decisionLines(one, flags.brief === true)) print(text);
  }
  const { words } = prunedOf(view);
  if (words !== '') print(`\n${words}`);
  if (view.next !== null) print(`\nEarlier decisions: sluice rollout explain ${view.rollout} --after ${view.next}`);
};

const wrongOf = ({ items }: ExplanationView): DecisionView[] =>
  items.filter(({ faults }) => faults !== null && faults.length > 0);

/** The sum of it first, and only what does not hold: all decisions of a long rollout are more than anyone asked for. */
const verdictOf = (view: ExplanationView): object => {
  const items = wrongOf(view);
  const { rollout, now, faults } = view;
  const holds = items.length === 0 && faults?.length === 0;
  const pruned = prunedOf(view).decisions;
  return {
    rollout,
    verified: { holds, decisions: view.items.length, wrong: items.length, pruned },
    now,
    items,
    faults,
  };
};

/** Throws when anything does not hold. */
const conclude = (view: ExplanationView, flags: Flags): void => {
  const [fault] = view.faults ?? [];
  if (fault !== undefined) throw new CliFailure(`${view.rollout}: ${harmless(fault)}`);
  const wrong = wrongOf(view).length;
  const all = `${view.items.length} ${view.items.length === 1 ? 'decision' : 'decisions'} of ${view.rollout}`;
  if (wrong > 0) throw new CliFailure(`${wrong} of ${all} ${wrong === 1 ? 'does' : 'do'} not hold`);
  if (flags.json === true) return;
  const { words } = prunedOf(view);
  print(
    `${paint.green('verified')}  ${all}: made again from what was recorded with it, each comes out the same, and the audit log vouches for all of them${words === '' ? '' : `; ${words}`}`,
  );
};

export const addExplain = (group: Command): void => {
  const command = withServer(group.command('explain'))
    .description(
      'Why it is where it is, and each decision so far, newest first, with the figures that it was made from',
    )
    .argument('<rollout>', 'its id', id)
    .option('--limit <n>', 'at most so many decisions', wholeNumber, 5)
    .option('--after <decision>', 'go on with what was decided before this one', wholeNumber)
    .option('--brief', 'one line for each decision')
    .option(
      '--verify',
      'make every decision again from its recorded inputs, however many, hold it against the audit log, and show those that do not hold',
    )
    .action(async (rollout: Id, flags: Flags) => {
      const view = await explain(await connect(flags), rollout, flags);
      if (flags.json === true) printJson(flags.verify === true ? verdictOf(view) : view);
      else if (flags.verify !== true) show(view, flags);
      else for (const one of wrongOf(view)) print(decisionLines(one, true).join('\n'));
      if (flags.verify === true) conclude(view, flags);
    });
  withExamples(command, [
    ['Why does it wait?', 'sluice rollout explain ro-5sjqphnd --limit 1'],
    ['The whole story', 'sluice rollout explain ro-5sjqphnd --brief --limit 1000'],
    ['Does every decision follow from what was known?', 'sluice rollout explain ro-5sjqphnd --verify'],
  ]);
};
