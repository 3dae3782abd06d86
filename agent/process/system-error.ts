/** What a system call's failure says, and what a failing disk means for a deployment. */
import type { DeviceErrorCode } from '#shared/deployment.ts';

const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** The code of an error of Node's (`ENOENT`, `ERR_...`); '' when it has none. */
export const errorCode = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';

/** The system call that failed; '' for other errors. */
export const failedCall = (error: unknown): string =>
  error instanceof Error && 'syscall' in error && typeof error.syscall === 'string' ? error.syscall : '';

/** Whether the disk, or this user's share of it, has no room. */
export const isFull = (error: unknown): boolean => FULL.has(errorCode(error));

/** Whether the system has refused something, and not a library or a bug. */
export const isSystemError = (error: unknown): boolean => /^E(?!RR_)[A-Z0-9]+$/.test(errorCode(error));

/** Goes on where the system refuses: what needs it finds out. Anything else is a bug and is thrown again. */
export const asFarAsPossible = async (doing: Promise<unknown>): Promise<void> => {
  await doing.catch((error: unknown) => {
    if (!isSystemError(error)) throw error;
  });
};

/** A system error of a file operation as a refusal; anything else is a bug and is thrown again. */
export const storageRefusal = (
  error: unknown,
  doing: string,
): { ok: false; code: DeviceErrorCode; message: string } => {
  const code = errorCode(error);
  if (!isSystemError(error)) throw error;
  return { ok: false, code: FULL.has(code) ? 'NO_SPACE' : 'WRITE_FAILED', message: `${doing}: ${code}` };
};
