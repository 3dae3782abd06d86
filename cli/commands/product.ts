/** `sluice product`: what is versioned, and which keys may sign for it. */
import { readFile, stat } from 'node:fs/promises';
import type { Command } from 'commander';
import { routes } from '#shared/api.ts';
import type { Id } from '#shared/ids.ts';
import { type PublicKey, parsePublicKey, publicKeyPem } from '#shared/trust/keys.ts';
import { signerFromPem } from '#shared/trust/signers.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { CliFailure, valueOf } from '../failure.ts';
import { formatTime, print, printJson, table } from '../terminal.ts';
import { collectText, id } from '../values.ts';

/** A public key from a file. Of a private one only the public half leaves this machine. */
export const readPublicKey = async (file: string): Promise<PublicKey> => {
  const there = await stat(file).catch(() => undefined);
  if (there === undefined || !there.isFile() || there.size > 16_384)
    throw new CliFailure(`${file} cannot be read as a key`);
  const text = await readFile(file, 'utf8');
  if (text.includes('PRIVATE KEY')) return valueOf(signerFromPem(text), file).key;
  return valueOf(parsePublicKey(text.trim()), file);
};

export const addProduct = (program: Command): void => {
  const group = program.command('product').description('Products, and the CI keys that may sign for them');
  withExamples(
    withServer(group.command('create'))
      .description('Make a product and delegate its signing to a CI key')
      .argument('<product>', 'its name', id)
      .requiredOption('--key <file>', "CI's public key (PEM); repeat it for several", collectText)
      .action(async (name: Id, flags: ServerFlags & { key: string[] }) => {
        const keys: string[] = [];
        for (const file of flags.key) keys.push(publicKeyPem(await readPublicKey(file)));
        const product = await (await connect(flags)).call(routes.productCreate, { body: { name, keys } });
        if (flags.json === true) return printJson(product);
        print(`${product.name} is there. ${product.role} may sign for it, with ${product.keys.length} key(s):`);
        for (const { keyId } of product.keys) print(`  ${keyId}`);
      }),
    [['A product that one CI signs for', 'sluice product create gateway --key ci.pub.pem']],
  );
  withExamples(
    withServer(group.command('list'))
      .description('List the products')
      .action(async (flags: ServerFlags) => {
        const { items } = await (await connect(flags)).call(routes.productList, {});
        if (flags.json === true) return printJson(items);
        const rows = items.map(({ name, role, keys, createdAt }) => [
          name,
          role,
          keys.map(({ keyId }) => keyId.slice(0, 16)).join(' '),
          formatTime(createdAt),
        ]);
        print(table(['PRODUCT', 'ROLE', 'KEYS', 'CREATED'], rows));
      }),
    [['What is there', 'sluice product list']],
  );
};
