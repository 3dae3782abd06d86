/** `sluice operator`: who may do what on a server. */
import { type Command, Option } from 'commander';
import { routes } from '#shared/api.ts';
import type { Id } from '#shared/ids.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { facts, formatTime, paint, print, printJson, table } from '../terminal.ts';
import { id } from '../values.ts';

type OperatorRole = 'admin' | 'operator' | 'ci' | 'viewer';

export const addOperator = (program: Command): void => {
  const group = program.command('operator').description('People and programs that use the server');
  withExamples(
    withServer(group.command('create'))
      .description('Make an operator; its token is shown only now')
      .argument('<name>', 'how the audit log will name it', id)
      .addOption(
        new Option('--role <role>', 'what it may do')
          .choices(['admin', 'operator', 'ci', 'viewer'])
          .makeOptionMandatory(),
      )
      .action(async (name: Id, flags: ServerFlags & { role: OperatorRole }) => {
        const made = await (await connect(flags)).call(routes.operatorCreate, { body: { name, role: flags.role } });
        if (flags.json === true) return printJson(made);
        print(
          facts([
            ['operator', made.name],
            ['role', made.role],
            ['token', { text: made.token, paint: paint.bold }],
          ]),
        );
        print('\nThe token is shown only now: keep it somewhere safe.');
      }),
    [['A token for CI, which may publish and stage, and nothing else', 'sluice operator create ci --role ci']],
  );
  withExamples(
    withServer(group.command('list'))
      .description('List the operators')
      .action(async (flags: ServerFlags) => {
        const { items } = await (await connect(flags)).call(routes.operatorList, {});
        if (flags.json === true) return printJson(items);
        const rows = items.map(({ name, role, createdAt, revokedAt }) => [
          name,
          role,
          formatTime(createdAt),
          revokedAt === null ? '' : formatTime(revokedAt),
        ]);
        print(table(['NAME', 'ROLE', 'CREATED', 'REVOKED'], rows));
      }),
    [['Everyone', 'sluice operator list']],
  );
  withExamples(
    withServer(group.command('revoke'))
      .description('Revoke an operator; its token stops working at once')
      .argument('<name>', 'the operator', id)
      .action(async (name: Id, flags: ServerFlags) => {
        await (await connect(flags)).call(routes.operatorRevoke, { params: { name } });
        if (flags.json === true) return printJson({ revoked: name });
        print(`${name} is revoked.`);
      }),
    [['After a leak', 'sluice operator revoke ci']],
  );
};
