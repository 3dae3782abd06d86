/**
 * `npm run build:package`: Sluice as a package for npm, `dist/sluice-<version>.tgz`. Node runs no TypeScript below
 * node_modules, so the package has each source as JavaScript, in the same place: what a source finds beside itself, it
 * finds there too.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { type Plugin, rolldown } from 'rolldown';
import { z } from 'zod';

const run = promisify(execFile);
const root = join(import.meta.dirname, '..');

/** As they are. `sluice demo` rolls the samples out, and the help texts name pages of docs. */
const COPIED = ['firmware-samples', 'docs', 'README.md', 'CHANGELOG.md', 'SECURITY.md', 'LICENSE'];

/** Of package.json: what means the same to someone who installs the package. */
const KEPT = [
  'name',
  'version',
  'description',
  'license',
  'type',
  'engines',
  'bin',
  'dependencies',
  'optionalDependencies',
];

const Manifest = z.looseObject({ name: z.string(), version: z.string() });

/** A thread's file is found by its address, not by an import: it is compiled too, and gets its new name. */
const threads: Plugin = {
  name: 'threads',
  transform(code, importer) {
    return code.replaceAll(/new URL\('(\.\/[\w-]+)\.ts', import\.meta\.url\)/g, (_, name: string) => {
      this.emitFile({ type: 'chunk', id: join(dirname(importer), `${name}.ts`) });
      return `new URL('${name}.js', import.meta.url)`;
    });
  },
};

const compile = async (folder: string): Promise<void> => {
  const bundle = await rolldown({
    cwd: root,
    input: 'cli/sluice.ts',
    platform: 'node',
    external: /^[^.#/]/,
    plugins: [threads],
  });
  await bundle.write({ dir: folder, preserveModules: true, preserveModulesRoot: root, entryFileNames: '[name].js' });
  await bundle.close();
  const launcher = await readFile(join(root, 'cli/sluice.mjs'), 'utf8');
  await writeFile(join(folder, 'cli/sluice.mjs'), launcher.replaceAll('sluice.ts', 'sluice.js'), { mode: 0o755 });
};

const describe = async (folder: string): Promise<z.infer<typeof Manifest>> => {
  const manifest = Manifest.parse(JSON.parse(await readFile(join(root, 'package.json'), 'utf8')));
  const kept = Object.fromEntries(KEPT.map((key) => [key, manifest[key]]));
  await writeFile(join(folder, 'package.json'), `${JSON.stringify(kept, null, 2)}\n`);
  return manifest;
};

const { values } = parseArgs({ options: { out: { type: 'string', default: join(root, 'dist') } } });
const out = resolve(values.out);
const folder = join(out, 'package');
await rm(folder, { recursive: true, force: true });
await mkdir(folder, { recursive: true });
await compile(folder);
const isCopied = (file: string): boolean => !file.endsWith('.ts');
for (const name of COPIED) await cp(join(root, name), join(folder, name), { recursive: true, filter: isCopied });
const { name, version } = await describe(folder);
await run('npm', ['pack', '--pack-destination', out], { cwd: folder });
const file = join(out, `${name}-${version}.tgz`);
process.stdout.write(`${file}: ${((await stat(file)).size / 1e6).toFixed(1)} MB\n`);
