/** The operators' API under /api/v1: every request and every route. What they answer with: views.ts. */
import { z } from 'zod';
import { Id } from './ids.ts';
import { route } from './route.ts';
import { devicesApi } from './routes/devices.ts';
import { ADMINISTER, Empty, PageQuery, page, READ } from './routes/parts.ts';
import { releasesApi } from './routes/releases.ts';
import { rolloutsApi } from './routes/rollouts.ts';
import { AuditView, OperatorView } from './views.ts';

export const routes = {
  whoami: route({
    method: 'GET',
    path: '/api/v1/whoami',
    roles: READ,
    tags: ['operators'],
    summary: 'Who the token belongs to',
    answer: z.object({ name: z.string(), role: z.string(), server: z.string() }),
  }),
  operatorCreate: route({
    method: 'POST',
    path: '/api/v1/operators',
    roles: ADMINISTER,
    tags: ['operators'],
    summary: 'Make an operator and its token, which is shown only now',
    body: z.strictObject({ name: Id, role: z.enum(['admin', 'operator', 'ci', 'viewer']) }),
    answer: z.object({ name: z.string(), role: z.string(), token: z.string() }),
    success: 201,
  }),
  operatorList: route({
    method: 'GET',
    path: '/api/v1/operators',
    roles: ADMINISTER,
    tags: ['operators'],
    summary: 'The operators',
    answer: z.object({ items: z.array(OperatorView) }),
  }),
  operatorRevoke: route({
    method: 'DELETE',
    path: '/api/v1/operators/:name',
    roles: ADMINISTER,
    tags: ['operators'],
    summary: 'Revoke an operator and its token',
    params: z.object({ name: Id }),
    answer: Empty,
  }),

  ...releasesApi,
  ...devicesApi,
  ...rolloutsApi,
  auditList: route({
    method: 'GET',
    path: '/api/v1/audit',
    roles: READ,
    tags: ['audit'],
    summary: 'The audit log, oldest first',
    query: z.object(PageQuery),
    answer: page(AuditView),
  }),
} as const;

/**
 * `GET /api/v1/audit/export` streams newline-delimited JSON for offline verification; see shared/trust/audit-export.ts.
 */
export const AUDIT_EXPORT_PATH = '/api/v1/audit/export';
