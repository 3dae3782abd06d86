/**
 * `sluice release check | approve | promote | requirements`: from one channel to the next, when all that it requires is
 * there.
 */
import { Argument, type Command } from 'commander';
import { routes } from '#shared/api.ts';
import type { Id } from '#shared/ids.ts';
import { type ReleaseView, type RequirementsView } from '#shared/views.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { type Cell, formatTime, paint, print, printJson, table } from '../terminal.ts';
import { id } from '../values.ts';

export const addPromotion = (group: Command, showRelease: (release: ReleaseView) => void): void => {
  addRequirements(group);
  addCheck(group);
  addApprove(group);
  const promote = withServer(group.command('promote'))
    .description(
      'Take a release from one channel to the next: the same bytes, when nothing that it requires is missing',
    )
    .argument('<release>', 'product@version')
    .requiredOption('--to <channel>', 'where it goes; it must be in the channel before', id)
    .action(async (release: string, flags: ServerFlags & { to: Id }) => {
      const call = { params: { release }, body: { to: flags.to } };
      const view = await (await connect(flags)).call(routes.releasePromote, call);
      if (flags.json === true) return printJson(view);
      showRelease(view);
    });
  withExamples(promote, [['What staging has proven', 'sluice release promote gateway@1.1.0 --to production']]);
};

const addRequirements = (group: Command): void => {
  const command = withServer(group.command('requirements'))
    .description('Show what each channel requires of a release, and what of it is missing')
    .argument('<release>', 'product@version')
    .action(async (release: string, flags: ServerFlags) =>
      show(await (await connect(flags)).call(routes.releaseRequirements, { params: { release } }), flags),
    );
  withExamples(command, [['May it go to production?', 'sluice release requirements gateway@1.1.0']]);
};

const addCheck = (group: Command): void => {
  const command = withServer(group.command('check'))
    .description('Say how a named check of a release ended, such as a test on real hardware; the latest result counts')
    .argument('<release>', 'product@version')
    .argument('<name>', 'of the check, as the channel requires it', id)
    .addArgument(new Argument('<outcome>', 'how it ended').choices(['pass', 'fail']))
    .option('--link <url>', 'where to read more')
    .action(async (release: string, check: Id, outcome: 'pass' | 'fail', flags: ServerFlags & { link?: string }) => {
      const body = { outcome, ...(flags.link === undefined ? {} : { link: flags.link }) };
      show(await (await connect(flags)).call(routes.releaseCheck, { params: { release, check }, body }), flags);
    });
  withExamples(command, [
    ['In CI', 'sluice release check gateway@1.1.0 e2e pass --link https://ci.example.com/runs/812'],
    ['A finding stops the way to channels that require the check', 'sluice release check gateway@1.1.0 hil fail'],
  ]);
};

const addApprove = (group: Command): void => {
  const command = withServer(group.command('approve'))
    .description('Approve a release for a channel; the person who published or promotes it does not count')
    .argument('<release>', 'product@version')
    .requiredOption('--to <channel>', 'for which channel', id)
    .option('--note <text>', 'what was looked at, for the audit log', '')
    .action(async (release: string, flags: ServerFlags & { to: Id; note: string }) => {
      const call = { params: { release }, body: { channel: flags.to, note: flags.note } };
      show(await (await connect(flags)).call(routes.releaseApprove, call), flags);
    });
  withExamples(command, [
    ['The second pair of eyes', 'sluice release approve gateway@1.1.0 --to production --note "read the diff"'],
  ]);
};

const show = (view: RequirementsView, flags: ServerFlags): void => {
  if (flags.json === true) return printJson(view);
  const rows = view.channels.flatMap(({ channel, staged, requirements }): Cell[][] => {
    const state = staged ? 'staged' : '';
    if (requirements.length === 0) return [[channel, state, '', 'requires nothing']];
    return requirements.map(({ met, sentence }, index) => [
      index === 0 ? channel : '',
      index === 0 ? state : '',
      met ? { text: 'met', paint: paint.green } : { text: 'missing', paint: paint.red },
      sentence,
    ]);
  });
  print(table(['CHANNEL', 'STATE', '', 'REQUIREMENT'], rows));
  if (view.approvals.length === 0) return;
  const given = view.approvals.map(({ channel, by, at, note }) => [channel, by, formatTime(at), note]);
  print(`\n${table(['APPROVED FOR', 'BY', 'AT', 'NOTE'], given)}`);
};
