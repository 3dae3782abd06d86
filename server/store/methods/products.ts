import type { Id } from '#shared/ids.ts';
import type { ProductRecord } from '../catalogue.ts';
import { fromJson, limitOf } from '../sql.ts';
import { appendAudit } from './audit.ts';
import type { Methods } from './methods.ts';

type ProductRow = { name: Id; keys: string; createdAt: number };
const COLUMNS = 'name, keys, created_at AS "createdAt"';
const toProduct = (row: ProductRow): ProductRecord => ({ ...row, keys: fromJson(row.keys) });

export const products = {
  createProduct: async (sql, { name, keys, createdAt }, audit) => {
    const created = await sql.run(
      `INSERT INTO products (name, keys, created_at) VALUES (:name, :keys, :createdAt) ON CONFLICT (name) DO NOTHING`,
      { name, keys: JSON.stringify(keys), createdAt },
    );
    if (created === 0) return 'exists';
    await appendAudit(sql, [audit]);
    return 'created';
  },
  listProducts: async (sql, page = { limit: 1000 }) => {
    const rows = await sql.all<ProductRow>(
      `SELECT ${COLUMNS} FROM products WHERE name > :after ORDER BY name LIMIT :limit`,
      { after: page.after ?? '', limit: limitOf(page.limit) },
    );
    return rows.map(toProduct);
  },
  getProduct: async (sql, name) => {
    const row = await sql.get<ProductRow>(`SELECT ${COLUMNS} FROM products WHERE name = :name`, { name });
    return row && toProduct(row);
  },
  getDelegationMetadata: (sql, product, version) =>
    sql.get<{ version: number; document: string }>(
      `SELECT version, document FROM delegations WHERE product = :product AND version = coalesce(:version, version)
       ORDER BY version DESC LIMIT 1`,
      { product, version: version ?? null },
    ),
} satisfies Partial<Methods>;
