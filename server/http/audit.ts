import { Readable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { AUDIT_EXPORT_PATH, routes } from '#shared/api.ts';
import { accept } from '#shared/problems.ts';
import { type ExportDeps, exportAudit } from '../flow/audit/export-audit.ts';
import { readIndex } from '../flow/device/device-history.ts';
import type { Store } from '../store/store.ts';
import { handle } from './app.ts';
import { pageOf } from './page.ts';
import { auditView } from './views.ts';

/** An export of ten million lines at a slow reader's pace. */
const EXPORT_MS_MAX = 6 * 3_600_000;

export const auditRoutes = (app: FastifyInstance, deps: ExportDeps & { store: Pick<Store, 'readAudit'> }): void => {
  handle(app, routes.auditList, async ({ query }) => {
    const after = readIndex(query.after);
    if (!after.ok) return after;
    const entries = await deps.store.readAudit(after.value ?? -1, query.limit);
    return accept(pageOf(entries, query.limit, (entry) => String(entry.index), auditView));
  });
  app.get(
    AUDIT_EXPORT_PATH,
    {
      config: { roles: ['admin', 'operator', 'ci', 'viewer'] },
      handlerTimeout: EXPORT_MS_MAX,
      schema: {
        summary: 'The whole audit log with all that is needed to verify it offline, as newline-delimited JSON',
        description: 'For: admin, operator, ci, viewer. Check it with `sluice audit verify`.',
        operationId: 'auditExport',
        tags: ['audit'],
        security: [{ operator: [] }],
      },
    },
    (_request, reply) =>
      reply
        .type('application/x-ndjson')
        .header('cache-control', 'no-store')
        .header('content-disposition', 'attachment; filename="sluice-audit.ndjson"')
        .send(Readable.from(exportAudit(deps))),
  );
};
