/** A product, and the CI keys to which the targets role delegates its paths. */

import { auditLine } from '#server/domain/audit.ts';
import type { ProductRecord } from '#server/store/catalogue.ts';
import type { Store } from '#server/store/store.ts';
import type { Repository } from '#server/trust/repository.ts';
import type { Id } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { keyIdOf, type PublicKey, parsePublicKey, publicKeyPem } from '#shared/trust/keys.ts';

/**
 * Recorded first, then delegated. Making the same product with the same keys again delegates again, so that a crash in
 * between is mended by repeating the request (and by `reconcileDelegations` at the next start). Refusals:
 * `invalid-request` for a key that cannot be used, `already-exists` for a product with other keys, or whose name
 * differs from another one only in the case of its letters (on some file systems their metadata would be one file),
 * `conflict` when the targets key is offline: then nothing is recorded, since a product that no one delegates to would
 * stop the next start.
 */
export const createProduct = async (
  deps: {
    store: Pick<Store, 'createProduct' | 'getProduct' | 'listProducts'>;
    repository: Repository;
    now: () => number;
  },
  input: { name: Id; keys: string[]; by: string },
): Promise<Result<ProductRecord>> => {
  const keys: PublicKey[] = [];
  for (const [index, text] of input.keys.entries()) {
    const key = parsePublicKey(text);
    if (!key.ok) return refuse('invalid-request', `keys.${index}: ${key.detail}`);
    // Distinct by what they are, not by how they are written: one key twice must not count as two.
    if (!keys.some((known) => keyIdOf(known) === keyIdOf(key.value))) keys.push(key.value);
  }
  const at = deps.now();
  const product = { name: input.name, keys: keys.map(publicKeyPem), createdAt: at };
  const taken = refuse('already-exists', `there is a product ${input.name} already, with other keys`);
  const before = await deps.store.getProduct(input.name);
  if (before !== undefined && !hasSameKeys(before, product)) return taken;
  const alike =
    before === undefined ? (await deps.store.listProducts()).find(({ name }) => isAlike(name, input.name)) : undefined;
  if (alike !== undefined)
    return refuse('already-exists', `there is a product ${alike.name} already: names must differ in more than case`);
  if (!deps.repository.canDelegate(input.name, keys)) {
    return refuse(
      'conflict',
      'the targets key is not on this server, and without it no one can be allowed to sign for a product: put targets.pem back into the keys folder, restart, create the product, and move the key away again',
    );
  }
  const created = await deps.store.createProduct(
    product,
    auditLine({ at, by: input.by, kind: 'product-created', product: input.name, keys: keys.map(keyIdOf) }),
  );
  const known = created === 'exists' ? await deps.store.getProduct(input.name) : product;
  // Someone else may have made it in between.
  if (known === undefined || !hasSameKeys(known, product)) return taken;
  await deps.repository.delegateProduct(input.name, keys);
  return accept(known);
};

const isAlike = (one: Id, other: Id): boolean => one.toLowerCase() === other.toLowerCase();

const hasSameKeys = (one: ProductRecord, other: ProductRecord): boolean => one.keys.join() === other.keys.join();

export const keysOf = (product: ProductRecord): PublicKey[] =>
  product.keys.map((text) => {
    const key = parsePublicKey(text);
    if (!key.ok) throw new Error(`the stored key of ${product.name} cannot be read: ${key.detail}`);
    return key.value;
  });

/** At start: finish what a crash between record and act left open. */
export const reconcileDelegations = async (deps: {
  store: Pick<Store, 'listProducts'>;
  repository: Repository;
}): Promise<void> => {
  for (const product of await deps.store.listProducts()) {
    await deps.repository.delegateProduct(product.name, keysOf(product));
  }
};
