/** Who may ask the server for what. */
import type { Millis, Sha256 } from '#shared/ids.ts';
import type { AuditLine } from './audit.ts';
import type { Page } from './page.ts';

export type OperatorRole = 'admin' | 'operator' | 'ci' | 'viewer';

export type OperatorRecord = {
  name: string;
  role: OperatorRole;
  tokenSha256: Sha256;
  createdAt: Millis;
  revokedAt: Millis | null;
};

export type OperatorStore = {
  createOperator(operator: OperatorRecord, audit: AuditLine): Promise<'created' | 'exists'>;
  /** A revoked operator is not found. */
  findOperator(tokenSha256: Sha256): Promise<OperatorRecord | undefined>;
  /** By name; the first 1,000 unless told. */
  listOperators(page?: Page): Promise<OperatorRecord[]>;
  /** `not-found` also when it was revoked before. */
  revokeOperator(name: string, at: Millis, audit: AuditLine): Promise<'revoked' | 'not-found'>;
};
