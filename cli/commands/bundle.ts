/** `sluice bundle`: make bundles, and look into them. No server is needed. */
import { dirname } from 'node:path';
import { type Command, Option } from 'commander';
import { partsOf } from '#shared/bundle-part.ts';
import { releaseRef, Sha256, unreachable } from '#shared/ids.ts';
import type { HealthCheck } from '#shared/manifest.ts';
import { withoutLongWords } from '#shared/problems.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { withExamples } from '../command.ts';
import { createBundles, parseDescription, readDescription } from '../description.ts';
import { CliFailure, usageFailure } from '../failure.ts';
import { type CheckedBundle, checkBundle, warnOfCompressed, warnOfLost } from '../publish.ts';
import { facts, formatBytes, harmless, paint, print, printJson, table, withProgress } from '../terminal.ts';
import { collect, collectText, pair, wholeNumber } from '../values.ts';

type CreateFlags = {
  file?: string;
  product?: string;
  version?: string;
  compatible?: string[];
  securityCounter?: number;
  folder?: [string, string][];
  artifact?: [string, string][];
  image?: [string, string][];
  delegate?: [string, string][];
  run?: string[];
  health?: string[];
  change?: string[];
  notes?: string;
  attach?: [string, string][];
  out: string;
  json?: boolean;
};

/**
 * Flags stand over the file's fields. Paths in flags are relative to the working directory, those in the file to the
 * file.
 */
const describe = async (flags: CreateFlags): Promise<{ content: Record<string, unknown>; folder: string }> => {
  const content = flags.file === undefined ? {} : await readDescription(flags.file);
  for (const name of ['product', 'version', 'compatible', 'securityCounter', 'notes'] as const) {
    if (flags[name] !== undefined) content[name] = flags[name];
  }
  const files = [
    ...(flags.folder ?? []).map(folderArtifact),
    ...(flags.artifact ?? []).map(fileArtifact),
    ...(flags.image ?? []).map(([name, path]) => ({ name, image: fromHere(path) })),
    ...(flags.delegate ?? []).map(([handler, path]) => ({ name: handler, delegate: fromHere(path), handler })),
  ];
  if (files.length > 0) content['artifacts'] = files;
  if (flags.run !== undefined) content['run'] = { command: flags.run };
  if (flags.change !== undefined) content['changes'] = flags.change;
  if (flags.health !== undefined) {
    const checks = flags.health.map((url) => ({ kind: 'http', url }));
    content['health'] = { ...(typeof content['health'] === 'object' ? content['health'] : {}), checks };
  }
  if (flags.attach !== undefined) {
    content['attachments'] = flags.attach.map(([kind, file]) => ({ kind, file: fromHere(file) }));
  }
  return { content, folder: flags.file === undefined ? process.cwd() : dirname(flags.file) };
};
const fromHere = (path: string): string => (path.startsWith('/') ? path : `${process.cwd()}/${path}`);
const folderArtifact = ([name, path]: [string, string]) => ({ name, folder: fromHere(path) });
const fileArtifact = ([name, value]: [string, string]) => {
  const at = value.lastIndexOf(':');
  if (at < 1) throw usageFailure('--artifact takes name=file:path-in-the-slot, such as app=build/app.mjs:app.mjs');
  return { name, file: fromHere(value.slice(0, at)), path: value.slice(at + 1) };
};

const addCreate = (group: Command): void => {
  const create = group
    .command('create')
    .description('Make a bundle from a description file, from flags, or from both (flags win)')
    .option('--file <file>', 'description, YAML or JSON; paths in it are relative to it')
    .option('--product <name>', 'what is versioned')
    .option('--version <version>', 'semantic version, such as 1.4.0')
    .option('--compatible <name>', 'hardware it is for; repeat it for one bundle each', collectText)
    .option('--security-counter <n>', 'grows when older versions must never run again', wholeNumber)
    .option('--folder <name=folder>', 'a folder, unpacked at the root of the slot; repeatable', collect(pair))
    .option('--artifact <name=file:path>', 'a file, placed at this path in the slot; repeatable', collect(pair))
    .option('--image <name=file>', 'a raw image for a slot that boots the whole device; alone', collect(pair))
    .option(
      '--delegate <handler=file>',
      'handed to an installer on the device, such as rauc=fw.raucb; alone',
      collect(pair),
    )
    .option('--run <command...>', 'the application that the agent runs in the slot')
    .option('--health <url>', 'must answer with success before the trial ends well; {port} is its PORT', collectText)
    .option('--change <id>', 'issue key or commit that this version contains; repeatable', collectText)
    .option('--notes <text>', 'release notes')
    .option('--attach <kind=file>', 'sbom, provenance, notes or other; repeatable', collect(pair))
    .addOption(new Option('--out <file>', 'the bundle, or a folder for it (ending in /)').default('./', 'this folder'))
    .option('--json', 'print JSON for scripts')
    .action(async (flags: CreateFlags) => {
      const { content, folder } = await describe(flags);
      const description = parseDescription(content, flags.file ?? 'this command line');
      const label = releaseRef(description.product, description.version);
      const created = await withProgress(label, (onProgress) =>
        createBundles(description, { folder, out: flags.out, onProgress }),
      );
      // The artifacts are the same for each compatible.
      created.slice(0, 1).forEach(warnOfCompressed);
      created.slice(0, 1).forEach(warnOfLost);
      if (flags.json === true) {
        return printJson(
          created.map(({ file, bytes, sha256, manifest, lost }) => ({ file, bytes, sha256, manifest, lost })),
        );
      }
      print(
        table(
          ['BUNDLE', 'SIZE', 'SHA-256'],
          created.map(({ file, bytes, sha256 }) => [file, formatBytes(bytes), sha256]),
        ),
      );
    });
  withExamples(create, [
    [
      'From a description, for every compatible that it names',
      'sluice bundle create --file firmware-samples/good-1.0.0/bundle.yaml --out build/',
    ],
    [
      'From flags alone',
      'sluice bundle create --product gateway --version 1.0.0 --compatible gw-arm --folder app=dist --run node main.mjs',
    ],
    [
      'A root file system, for devices that boot images',
      'sluice bundle create --product gateway-os --version 2.3.0 --compatible gw-arm --image rootfs=rootfs.ext4',
    ],
    [
      'What is there already for RAUC, SWUpdate, or an installer of your own',
      'sluice bundle create --product gateway-os --version 2.3.0 --compatible gw-arm --delegate rauc=gateway-2.3.0.raucb',
    ],
    [
      'CI sets what only it knows',
      'sluice bundle create --file bundle.yaml --version "$VERSION" --change "$COMMIT" --attach sbom=sbom.json',
    ],
  ]);
};

export const addBundle = (program: Command): void => {
  const group = program.command('bundle').description('Bundles: make them, look into them');
  addCreate(group);
  withExamples(
    group
      .command('inspect')
      .description('Show what a bundle holds, after checking all of it')
      .argument('<file>', 'the bundle')
      .option('--json', 'print JSON for scripts')
      .action(async (file: string, flags: { json?: boolean }) => {
        const bundle = await check(file);
        if (flags.json === true) return printJson(viewOf(bundle));
        showBundle(bundle);
      }),
    [
      ['For people', 'sluice bundle inspect gateway-1.0.0-gw-arm.sluice'],
      [
        'Which changes does it contain?',
        "sluice bundle inspect --json gateway-1.0.0-gw-arm.sluice | jq '.manifest.changes'",
      ],
    ],
  );
  withExamples(
    group
      .command('verify')
      .description('Check form, sizes and digests of bundles; exit code 1 when one is not as its manifest says')
      .argument('<file...>', 'the bundles')
      .option('--json', 'print JSON for scripts')
      .action(async (files: string[], flags: { json?: boolean }) => {
        const found = [];
        for (const file of files) found.push(await tryCheck(file));
        if (flags.json === true) printJson(found);
        else
          for (const { ok, file } of found)
            print(`${ok ? `${paint.green('ok')} ` : paint.red('bad')}  ${harmless(withoutLongWords(file))}`);
        const bad = found.filter((result) => !result.ok);
        if (bad.length > 0) throw new CliFailure(bad.map((result) => result.why).join('\n'));
      }),
    [['Before publishing', 'sluice bundle verify build/*.sluice']],
  );
};

const check = (file: string): Promise<CheckedBundle> =>
  withProgress(file, (onProgress) => checkBundle(file, onProgress));
const viewOf = ({ file, bytes, sha256, manifest, manifestBytes }: CheckedBundle) => ({
  file,
  bytes,
  sha256,
  manifestSha256: Sha256.parse(sha256Hex(manifestBytes)),
  manifest,
});
const tryCheck = async (file: string) => {
  try {
    return { ok: true as const, ...viewOf(await check(file)) };
  } catch (error) {
    if (error instanceof CliFailure) return { ok: false as const, file, why: withoutLongWords(error.message) };
    throw error;
  }
};

const checkWords = (check: HealthCheck): string => {
  switch (check.kind) {
    case 'http':
      return check.url;
    case 'command':
      return check.command.join(' ');
    case 'tcp':
      return `tcp ${check.host}:${check.port}`;
    case 'process':
      return `process ${check.program ?? check.pidFile ?? '(the application)'}`;
    case 'file':
      return `file ${check.path}`;
    default:
      return unreachable(check);
  }
};

const showBundle = (bundle: CheckedBundle): void => {
  const { manifest } = bundle;
  print(
    facts([
      ['release', { text: releaseRef(manifest.product, manifest.version), paint: paint.bold }],
      ['compatible', manifest.compatible],
      ['security counter', manifest.securityCounter],
      ['runs', manifest.run?.command.join(' ') ?? '(nothing)'],
      ['health checks', manifest.health.checks.map(checkWords).join(', ') || '(stays up)'],
      ['changes', manifest.changes.join(', ') || '(none named)'],
      ['bundle', `${formatBytes(bundle.bytes)}, SHA-256 ${bundle.sha256}`],
      ['manifest', `SHA-256 ${sha256Hex(bundle.manifestBytes)}`],
    ]),
  );
  if (manifest.notes !== '') print(`\n${manifest.notes.trim()}`);
  print();
  const rows = partsOf(manifest).map((part) => [part.kind, part.name, formatBytes(part.bytes), part.sha256]);
  print(table(['KIND', 'NAME', 'SIZE', 'SHA-256'], rows));
};
