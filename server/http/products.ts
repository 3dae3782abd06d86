import type { FastifyInstance } from 'fastify';
import { routes } from '#shared/api.ts';
import { accept, refuse } from '#shared/problems.ts';
import { roleOfProduct } from '#shared/trust/delegation.ts';
import { keyIdOf } from '#shared/trust/keys.ts';
import { createProduct, keysOf } from '../flow/release/create-product.ts';
import type { Store } from '../store/store.ts';
import type { Repository } from '../trust/repository.ts';
import { handle } from './app.ts';
import { productView } from './views.ts';

/**
 * How long CI should make its metadata valid: devices refuse expired metadata, so publishing at least yearly is
 * expected.
 */
const CI_METADATA_LIFE_MS = 365 * 86_400_000;

export const productRoutes = (
  app: FastifyInstance,
  deps: { store: Store; repository: Repository; now: () => number },
): void => {
  handle(app, routes.productCreate, async ({ body, who }) => {
    const created = await createProduct(deps, { ...body, by: who.name });
    return created.ok ? accept(productView(created.value)) : created;
  });
  handle(app, routes.productList, async () => {
    const products = await deps.store.listProducts();
    return accept({ items: products.map(productView) });
  });
  handle(app, routes.productDelegation, async ({ params }) => {
    const product = await deps.store.getProduct(params.product);
    if (product === undefined) return refuse('not-found', `there is no product ${params.product}`);
    const metadata = await deps.store.getDelegationMetadata(params.product);
    return accept({
      role: roleOfProduct(params.product),
      version: metadata?.version ?? 0,
      document: metadata?.document ?? null,
      keys: keysOf(product).map(keyIdOf),
      expiresInMs: CI_METADATA_LIFE_MS,
    });
  });
};
