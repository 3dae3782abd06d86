/** Operators: people and machines that may call the API, each with one token that is shown once. */
import { randomBytes } from 'node:crypto';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { auditLine, BY_SERVER } from '../domain/audit.ts';
import type { OperatorRecord, OperatorRole } from '../store/operators.ts';
import type { Store } from '../store/store.ts';

/** `slo_` + 32 random bytes: greppable by secret scanners, and too long to guess, so one round of SHA-256 stores it. */
const newOperatorToken = (): string => `slo_${randomBytes(32).toString('base64url')}`;

/**
 * Makes an operator. `token` may be given (configuration, tests); only its digest is kept.
 * Refusal: `already-exists`, also for a revoked name: the audit log must not show two people under one name.
 */
export const createOperator = async (
  deps: { store: Pick<Store, 'createOperator'>; now: () => number },
  input: { name: string; role: OperatorRole; by: string; token?: string | undefined },
): Promise<Result<{ name: string; role: OperatorRole; token: string }>> => {
  const token = input.token ?? newOperatorToken();
  const at = deps.now();
  const created = await deps.store.createOperator(
    { name: input.name, role: input.role, tokenSha256: sha256Hex(token), createdAt: at, revokedAt: null },
    auditLine({ at, by: input.by, kind: 'operator-created', name: input.name, role: input.role }),
  );
  if (created === 'exists') return refuse('already-exists', `there is an operator ${input.name} already`);
  return accept({ name: input.name, role: input.role, token });
};

/** Refusals: `not-found`; `conflict` for the last administrator, without whom no one could make another. */
export const revokeOperator = async (
  deps: { store: Pick<Store, 'revokeOperator' | 'listOperators'>; now: () => number },
  input: { name: string; by: string },
): Promise<Result<void>> => {
  const operators = await deps.store.listOperators();
  const administrators = operators.filter(({ role, revokedAt }) => role === 'admin' && revokedAt === null);
  if (administrators.length === 1 && administrators[0]?.name === input.name) {
    return refuse('conflict', `${input.name} is the last administrator; make another first`);
  }
  const at = deps.now();
  const revoked = await deps.store.revokeOperator(
    input.name,
    at,
    auditLine({ at, by: input.by, kind: 'operator-revoked', name: input.name }),
  );
  return revoked === 'revoked'
    ? accept(undefined)
    : refuse('not-found', `there is no operator ${input.name} to revoke`);
};

/**
 * At start: makes the administrator when no one is there yet. The answer is its token when it was made just now, else
 * null. A token from the configuration is made good for `admin` at the first start only; after that the store decides.
 */
export const ensureAdministrator = async (
  deps: { store: Pick<Store, 'createOperator' | 'listOperators'>; now: () => number },
  token?: string,
): Promise<string | null> => {
  const operators: OperatorRecord[] = await deps.store.listOperators();
  if (operators.length > 0) return null;
  const created = await createOperator(deps, { name: 'admin', role: 'admin', by: BY_SERVER, token });
  return created.ok ? created.value.token : null;
};
