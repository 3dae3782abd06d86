/** The audit log. */
import type { Id, Sha256 } from '#shared/ids.ts';

/** One line of the audit log. `payload` is canonical JSON: exactly the bytes that the Merkle leaf hashes. */
export type AuditLine = { payload: string };

export type AuditEntry = { index: number; payload: string };

/**
 * The right edge of the audit log's Merkle tree: hashes of the perfect subtrees, largest first (RFC 6962, section 2.1).
 */
export type AuditHead = { size: number; subtrees: Sha256[] };

export type AuditStore = {
  appendAudit(lines: AuditLine[]): Promise<void>;
  /** Entries with an index above `after`; -1 for the first page. */
  readAudit(after: number, limit: number): Promise<AuditEntry[]>;
  getAuditHead(): Promise<AuditHead>;
  /**
   * Receipts and other audit lines whose `device` or `devices` name this device, newest first, perhaps only those of
   * one kind; `before` is an index.
   */
  listDeviceAudit(
    device: Id,
    page: { before?: number | undefined; limit: number; kind?: string | undefined },
  ): Promise<AuditEntry[]>;
};
