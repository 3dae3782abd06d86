/** `sluice release`: publish what CI made, and say where it may go. */
import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { routes } from '#shared/api.ts';
import { releaseRef } from '#shared/ids.ts';
import { type Signer, signerFromPem } from '#shared/trust/signers.ts';
import { type ReleaseView } from '#shared/views.ts';
import { listAll } from '../client.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { CliFailure, usageFailure, valueOf } from '../failure.ts';
import { checkBundle, publishRelease, warnOfCompressed } from '../publish.ts';
import {
  type Cell,
  facts,
  formatBytes,
  formatTime,
  paint,
  print,
  printError,
  printJson,
  table,
  withProgress,
} from '../terminal.ts';
import { collectText, id, wholeNumber } from '../values.ts';
import { addDiff } from './change.ts';
import { readPublicKey } from './product.ts';
import { addPromotion } from './promotion.ts';

/** The signing key: from `--key`, or PEM text in SLUICE_SIGNING_KEY, where CI systems put secrets. */
const readSigner = async (keyFile: string | undefined): Promise<Signer> => {
  const fromEnvironment = process.env['SLUICE_SIGNING_KEY'] ?? '';
  if (keyFile === undefined && fromEnvironment === '') {
    throw usageFailure('no signing key: give --key <file>, or put the PEM text into SLUICE_SIGNING_KEY');
  }
  if (keyFile === undefined) return valueOf(signerFromPem(fromEnvironment), 'SLUICE_SIGNING_KEY');
  const pem = await readFile(keyFile, 'utf8').catch((error: unknown) => {
    throw new CliFailure(`${keyFile} cannot be read`, { cause: error });
  });
  return valueOf(signerFromPem(pem), keyFile);
};

const stateOf = (release: ReleaseView): Cell => {
  const { progress } = release;
  if (progress.state === 'accepted') return 'accepted';
  if (progress.state === 'staged') return { text: `staged: ${progress.channels.join(', ')}`, paint: paint.green };
  return { text: `withdrawn: ${progress.reason}`, paint: paint.red };
};

const addPublish = (group: Command): void => {
  const publish = withServer(group.command('publish'))
    .description('Sign the bundles of one release, upload and publish them: what CI calls')
    .argument('<bundle...>', 'the bundles of one release, one for each compatible')
    .option('--key <file>', 'signing key (PEM); else its text in SLUICE_SIGNING_KEY')
    .option('--trust <file>', 'public key of another CI that publishes this product too; repeatable', collectText)
    .option('--stage <channel>', 'stage the release in this channel as well', id)
    .action(async (files: string[], flags: ServerFlags & { key?: string; trust?: string[]; stage?: string }) => {
      const signer = await readSigner(flags.key);
      const client = await connect(flags);
      const trusted = await Promise.all((flags.trust ?? []).map(readPublicKey));
      const input = { files, signer, trusted, now: Date.now };
      let release: ReleaseView = await publishRelease(client, input, {
        checking: async (file) => {
          const bundle = await withProgress(`checking ${file}`, (onProgress) => checkBundle(file, onProgress));
          warnOfCompressed(bundle);
          return bundle;
        },
        sending: (bundle, work) => withProgress(`sending ${bundle.file}`, work),
        again: (why) => printError(`${why}; trying again`),
      });
      if (flags.stage !== undefined) {
        const call = { params: { release: release.release }, body: { channel: flags.stage } };
        release = await client.call(routes.releaseStage, call);
      }
      if (flags.json === true) return printJson(release);
      print(`${client.url} accepted ${paint.bold(release.release)}:`);
      showRelease(release);
    });
  withExamples(publish, [
    ['By hand', 'sluice release publish build/gateway-1.1.0-*.sluice --key ci.pem'],
    [
      'In CI, with the key and the token from its secrets, offerable in staging at once',
      'SLUICE_SIGNING_KEY="$KEY" SLUICE_TOKEN="$TOKEN" sluice release publish --stage staging *.sluice',
    ],
  ]);
};

export const addRelease = (program: Command): void => {
  const group = program.command('release').description('Releases: publish, stage, promote, withdraw');
  addPublish(group);
  withExamples(
    withServer(group.command('list'))
      .description('List releases, newest first')
      .option('--product <name>', 'only of this product', id)
      .option('--limit <n>', 'at most so many', wholeNumber, 100)
      .action(async (flags: ServerFlags & { product?: string; limit: number }) => {
        const client = await connect(flags);
        const items = await listAll(
          (page) =>
            client.call(routes.releaseList, {
              query: { ...page, ...(flags.product === undefined ? {} : { product: flags.product }) },
            }),
          flags.limit,
        );
        if (flags.json === true) return printJson(items);
        const rows = items.map((release) => [
          release.release,
          release.bundles.map(({ compatible }) => compatible).join(', '),
          formatTime(release.acceptedAt),
          stateOf(release),
        ]);
        print(table(['RELEASE', 'COMPATIBLE', 'ACCEPTED', 'STATE'], rows));
      }),
    [['Of one product', 'sluice release list --product gateway']],
  );
  addOne(group, 'show', 'Show one release and its bundles', 'sluice release show gateway@1.1.0');
  addDiff(group);
  const channel = ['--channel <channel>', 'where it becomes offerable'] as const;
  withExamples(
    withServer(group.command('stage'))
      .description('Make a release offerable in a channel')
      .argument('<release>', 'product@version')
      .requiredOption(...channel, id)
      .action(async (release: string, flags: ServerFlags & { channel: string }) => {
        const call = { params: { release }, body: { channel: flags.channel } };
        const view = await (await connect(flags)).call(routes.releaseStage, call);
        if (flags.json === true) return printJson(view);
        showRelease(view);
      }),
    [['The first step', 'sluice release stage gateway@1.1.0 --channel staging']],
  );
  addPromotion(group, showRelease);
  withExamples(
    withServer(group.command('withdraw'))
      .description('Take a release back: no one may offer it again, and rollouts of it halt')
      .argument('<release>', 'product@version')
      .requiredOption('--reason <text>', 'why, for the audit log')
      .action(async (release: string, flags: ServerFlags & { reason: string }) => {
        const call = { params: { release }, body: { reason: flags.reason } };
        const view = await (await connect(flags)).call(routes.releaseWithdraw, call);
        if (flags.json === true) return printJson(view);
        showRelease(view);
      }),
    [['After a finding', 'sluice release withdraw gateway@1.1.0 --reason "GW-31: leaks memory"']],
  );
};

const addOne = (group: Command, name: string, description: string, example: string): void => {
  withExamples(
    withServer(group.command(name))
      .description(description)
      .argument('<release>', 'product@version')
      .action(async (release: string, flags: ServerFlags) => {
        const view = await (await connect(flags)).call(routes.releaseShow, { params: { release } });
        if (flags.json === true) return printJson(view);
        showRelease(view);
      }),
    [['Where it may go, and what it contains', example]],
  );
};

const showRelease = (release: ReleaseView): void => {
  print(
    facts([
      ['release', { text: releaseRef(release.product, release.version), paint: paint.bold }],
      ['state', stateOf(release)],
      ['accepted', formatTime(release.acceptedAt)],
      [
        'changes',
        [...new Set(release.bundles.flatMap(({ manifest }) => manifest.changes))].join(', ') || '(none named)',
      ],
    ]),
  );
  print();
  const rows = release.bundles.map(({ compatible, manifest, manifestSha256, acceptedBy }) => [
    compatible,
    formatBytes(manifest.artifacts.reduce((sum, { bytes }) => sum + bytes, 0)),
    manifest.securityCounter,
    acceptedBy,
    manifestSha256,
  ]);
  print(table(['COMPATIBLE', 'ARTIFACTS', 'COUNTER', 'BY', 'MANIFEST'], rows));
};
