/** `sluice key`: the keys with which CI signs. */
import { writeFile } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { generatePrivateKey, signerFromPem } from '#shared/trust/signers.ts';
import { withExamples } from '../command.ts';
import { CliFailure, valueOf } from '../failure.ts';
import { facts, print, printJson } from '../terminal.ts';

export type KeyKind = 'ed25519' | 'rsa-3072';

/** Makes `<out>` (private, 0600) and `<out without .pem>.pub.pem`. Never overwrites either. */
export const makeKey = async (out: string, kind: KeyKind) => {
  const pem = generatePrivateKey(kind);
  const signer = valueOf(signerFromPem(pem), 'The new key cannot be used');
  const publicFile = `${out.replace(/\.pem$/, '')}.pub.pem`;
  const publicPem = publicKeyPem(signer.key);
  await writeNew(publicFile, publicPem, 0o644);
  await writeNew(out, pem, 0o600);
  return { kind, keyId: signer.keyId, privateFile: out, publicFile, publicPem };
};

const writeNew = async (file: string, text: string, mode: number): Promise<void> => {
  try {
    await writeFile(file, text, { mode, flag: 'wx', flush: true });
  } catch (error) {
    const there = error instanceof Error && 'code' in error && error.code === 'EEXIST';
    throw new CliFailure(
      there ? `${file} exists already, and keys are never overwritten` : `${file} cannot be written`,
      {
        cause: error,
      },
    );
  }
};

export const addKey = (program: Command): void => {
  const group = program.command('key').description('Signing keys');
  const make = group
    .command('new')
    .description('Make a signing key for CI: a private file that only you can read, and a public one for the server')
    .requiredOption('--out <file>', 'the private key (PEM, PKCS #8); the public one goes beside it as .pub.pem')
    .addOption(new Option('--type <type>', 'kind of key').choices(['ed25519', 'rsa-3072']).default('ed25519'))
    .option('--json', 'print JSON for scripts')
    .action(async (options: { out: string; type: KeyKind; json?: boolean }) => {
      const key = await makeKey(options.out, options.type);
      if (options.json === true) return printJson(key);
      print(
        facts([
          ['key id', key.keyId],
          ['private', `${key.privateFile} (keep it in your CI's secrets)`],
          ['public', key.publicFile],
        ]),
      );
      print(`\nNext: sluice product create <product> --key ${key.publicFile}`);
    });
  withExamples(make, [
    ['A key for CI', 'sluice key new --out ci.pem'],
    [
      'An RSA key of 3072 bits, for a signing device that knows nothing newer',
      'sluice key new --type rsa-3072 --out ci.pem',
    ],
  ]);
};
