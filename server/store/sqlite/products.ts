import type { Id } from '#shared/ids.ts';
import type { ProductRecord } from '../catalogue.ts';
import { appendAudit } from './audit.ts';
import { fromJson, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

type ProductRow = { name: Id; keys: string; createdAt: number };
const COLUMNS = 'name, keys, created_at AS createdAt';
const toProduct = (row: ProductRow): ProductRecord => ({ ...row, keys: fromJson(row.keys) });

export const products = (sql: Sql) =>
  ({
    createProduct: (product, audit) => {
      const created = sql.run(
        'INSERT INTO products (name, keys, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
        product.name,
        JSON.stringify(product.keys),
        product.createdAt,
      );
      if (created === 0) return 'exists';
      appendAudit(sql, [audit]);
      return 'created';
    },
    listProducts: (page = { limit: 1000 }) =>
      sql
        .all<ProductRow>(
          `SELECT ${COLUMNS} FROM products WHERE name > ? ORDER BY name LIMIT ?`,
          page.after ?? '',
          limitOf(page.limit),
        )
        .map(toProduct),
    getProduct: (name) => {
      const row = sql.get<ProductRow>(`SELECT ${COLUMNS} FROM products WHERE name = ?`, name);
      return row && toProduct(row);
    },
    getDelegationMetadata: (product, version) =>
      sql.get<{ version: number; document: string }>(
        `SELECT version, document FROM delegations WHERE product = ? AND version = ifnull(?, version)
         ORDER BY version DESC LIMIT 1`,
        product,
        version ?? null,
      ),
  }) satisfies Partial<SyncStore>;
