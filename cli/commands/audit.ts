/** `sluice audit`: the log that proves what ran where and when. */
import { createReadStream, createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Command } from 'commander';
import { AUDIT_EXPORT_PATH, routes } from '#shared/api.ts';
import { Sha256 } from '#shared/ids.ts';
import { linesOf } from '#shared/lines.ts';
import { EXPORT_LINE_CHARS_MAX, verifyAuditExport } from '#shared/trust/audit-export.ts';
import { type Client, listAll } from '../client.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { CliFailure, usageFailure } from '../failure.ts';
import { formatTime, paint, print, printError, printJson, table } from '../terminal.ts';
import { wholeNumber } from '../values.ts';

/** Writes the whole log, with everything that is needed to verify it offline, to a file. */
export const exportAudit = async (client: Client, file: string): Promise<void> => {
  const body = Readable.from(await client.download(AUDIT_EXPORT_PATH));
  await pipeline(body, createWriteStream(file, { flush: true }));
};

/** Recomputes everything in an export; what does not hold is named with its line. */
export const verifyAuditFile = async (file: string, rootSha256?: Sha256) => {
  const there = await stat(file).catch(() => undefined);
  if (there === undefined || !there.isFile()) throw new CliFailure(`${file} cannot be read`);
  // A character has at most three bytes for each UTF-16 unit.
  const lines = linesOf(createReadStream(file), 3 * EXPORT_LINE_CHARS_MAX);
  return verifyAuditExport(lines, rootSha256 === undefined ? {} : { rootSha256 });
};

const addExport = (group: Command): void => {
  const command = withServer(group.command('export'))
    .description('Write the whole log as lines of JSON, with all that is needed to verify it offline')
    .option('--out <file>', 'the export (default: standard output)')
    .action(async (flags: ServerFlags & { out?: string }) => {
      const client = await connect(flags);
      if (flags.out === undefined) {
        for await (const chunk of await client.download(AUDIT_EXPORT_PATH)) {
          if (!process.stdout.write(chunk)) await new Promise((resolve) => process.stdout.once('drain', resolve));
        }
        return;
      }
      await exportAudit(client, flags.out);
      const { size } = await stat(flags.out);
      if (flags.json === true) printJson({ file: flags.out, bytes: size });
      else printError(`Wrote ${flags.out}. Check it with: sluice audit verify ${flags.out}`);
    });
  withExamples(command, [['For the auditor', 'sluice audit export --out audit.ndjson']]);
};

const addVerify = (group: Command): void => {
  const command = group
    .command('verify')
    .description(
      'Recompute an export offline: trust root, log, checkpoint, every receipt; exit code 1 when anything does not hold',
    )
    .argument('<file>', 'the export')
    .option(
      '--root <sha256>',
      'the trust root that you know from elsewhere, such as an enrolment token or the first start',
    )
    .option('--json', 'print JSON for scripts')
    .action(async (file: string, flags: { root?: string; json?: boolean }) => {
      const root = Sha256.optional().safeParse(flags.root);
      if (!root.success) throw usageFailure('--root must be 64 lower-case hexadecimal digits');
      const result = await verifyAuditFile(file, root.data);
      if (flags.json === true) printJson(result);
      if (!result.ok) throw new CliFailure(`${file} does not hold: line ${result.line}: ${result.why}`);
      if (flags.json === true) return;
      print(
        `${paint.green('verified')}  ${result.entries} entries, ${result.receipts} receipts signed by devices, root ${result.root}`,
      );
      if (root.data === undefined)
        print('The trust root is the one in the export itself: give --root to hold it against one that you know.');
    });
  withExamples(command, [
    ['Without any server', 'sluice audit verify audit.ndjson'],
    ['Against the root that the factory wrote down', 'sluice audit verify audit.ndjson --root 3f1c... && echo proven'],
  ]);
};

export const addAudit = (program: Command): void => {
  const group = program.command('audit').description('The audit log: read it, export it, prove it');
  const list = withServer(group.command('list'))
    .description('Read the log, oldest first')
    .option('--after <index>', 'only what came after this entry')
    .option('--limit <n>', 'at most so many', wholeNumber, 1000)
    .action(async (flags: ServerFlags & { after?: string; limit: number }) => {
      const client = await connect(flags);
      const start = flags.after === undefined ? {} : { after: flags.after };
      const items = await listAll(
        (page) => client.call(routes.auditList, { query: { ...start, ...page } }),
        flags.limit,
      );
      if (flags.json === true) return printJson(items);
      print(
        table(
          ['INDEX', 'WHEN', 'BY', 'WHAT'],
          items.map((entry) => [entry.index, formatTime(entry.at), entry.by, entry.sentence]),
        ),
      );
    });
  withExamples(list, [['What happened', 'sluice audit list']]);
  addExport(group);
  addVerify(group);
};
