/** What the routes of several resources have in common. */
import { z } from 'zod';
import { Id, ReleaseRef } from '../ids.ts';

/** Lists are pages: pass `next` as `after` to get on; it is null on the last page. */
export const page = <S extends z.ZodType>(item: S) => z.object({ items: z.array(item), next: z.string().nullable() });
export const PageQuery = {
  after: z.string().max(256).optional(),
  limit: z.coerce.number().int().min(1).max(1000).default(100),
};
export const Empty = z.object({});

export const product = { params: z.object({ product: Id }) };
export const release = { params: z.object({ release: ReleaseRef }) };
export const device = { params: z.object({ device: Id }) };
export const rollout = { params: z.object({ rollout: Id }) };
export const READ = ['admin', 'operator', 'ci', 'viewer'] as const;
export const OPERATE = ['admin', 'operator'] as const;
export const PUBLISH = ['admin', 'operator', 'ci'] as const;
export const ADMINISTER = ['admin'] as const;
