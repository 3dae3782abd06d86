/** The audit log as a stream that can be verified offline (shared/trust/audit-export.ts), read a page at a time. */

import type { AuditEntry } from '#server/store/audit.ts';
import type { Store } from '#server/store/store.ts';
import type { Repository } from '#server/trust/repository.ts';
import { auditExportLines } from '#shared/trust/audit-export.ts';
import type { Signer } from '#shared/trust/signers.ts';

const PAGE_ENTRIES = 500;

export type ExportDeps = {
  store: Pick<Store, 'getAuditHead' | 'readAudit'>;
  repository: Pick<Repository, 'rootDocuments' | 'targetsDocument'>;
  log: Signer;
  now: () => number;
};

/**
 * Lines with their newlines, up to the last entry that was there at the start. Throws when the log is damaged: it must
 * not be vouched for.
 */
export async function* exportAudit(deps: ExportDeps): AsyncGenerator<string> {
  const lines = auditExportLines({
    roots: await deps.repository.rootDocuments(),
    targets: await deps.repository.targetsDocument(),
    head: await deps.store.getAuditHead(),
    entries: allEntries(deps.store),
    log: deps.log,
    at: deps.now(),
  });
  for await (const line of lines) yield `${line}\n`;
}

async function* allEntries(store: Pick<Store, 'readAudit'>): AsyncGenerator<AuditEntry> {
  let after = -1;
  for (;;) {
    const entries = await store.readAudit(after, PAGE_ENTRIES);
    yield* entries;
    const last = entries.at(-1);
    if (last === undefined || entries.length < PAGE_ENTRIES) return;
    after = last.index;
  }
}
