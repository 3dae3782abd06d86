/**
 * Builds every sample into `build/samples`, with a throw-away CI key and a second key that no one delegates: `npm run
 * samples`.
 */
import { existsSync, globSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { makeKey } from '#cli/commands/key.ts';
import { createBundles, parseDescription, readDescription } from '#cli/description.ts';
import { formatBytes, print, table } from '#cli/terminal.ts';

export type Sample = {
  sample: string;
  version: string;
  compatible: string;
  file: string;
  bytes: number;
  sha256: string;
};
export type BuiltSamples = {
  /** CI's private key, whose public half beside it is for `sluice product create`. */
  key: string;
  /** A key that signs as well as any other, but that no product delegates: for the sample bad-signature. */
  intruderKey: string;
  samples: Sample[];
};

const HERE = import.meta.dirname;

/** Makes all bundles, and the keys unless they are there from before. */
export const buildSamples = async (out: string): Promise<BuiltSamples> => {
  const samples: Sample[] = [];
  for (const file of globSync('**/bundle.yaml', { cwd: HERE }).sort()) {
    const folder = join(HERE, dirname(file));
    const description = parseDescription(await readDescription(join(HERE, file)), file);
    for (const bundle of await createBundles(description, { folder, out: `${out}/` })) {
      const { version, compatible } = bundle.manifest;
      const { bytes, sha256 } = bundle;
      samples.push({ sample: dirname(file), version, compatible, file: bundle.file, bytes, sha256 });
    }
  }
  const [key, intruderKey] = [join(out, 'ci.pem'), join(out, 'intruder.pem')];
  for (const one of [key, intruderKey]) if (!existsSync(one)) await makeKey(one, 'ed25519');
  return { key, intruderKey, samples };
};

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const out = join(HERE, '..', 'build', 'samples');
  const built = await buildSamples(out);
  const here = (file: string): string => relative(process.cwd(), file);
  const rows = built.samples.map((one) => [
    one.sample,
    one.version,
    one.compatible,
    formatBytes(one.bytes),
    here(one.file),
  ]);
  print(table(['SAMPLE', 'VERSION', 'COMPATIBLE', 'SIZE', 'BUNDLE'], rows));
  print(`\nSigned when published, for example:\n`);
  print(`  npx sluice product create gateway --key ${here(join(out, 'ci.pub.pem'))}`);
  print(
    `  npx sluice release publish ${here(join(out, 'gateway-1.0.0-*.sluice'))} --key ${here(built.key)} --stage production`,
  );
}
