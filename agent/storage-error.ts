/** What a failing disk means for a deployment. */
import type { DeviceErrorCode } from '#shared/deployment.ts';

const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** A system error of a file operation as a refusal; anything else is a bug and is thrown again. */
export const storageRefusal = (
  error: unknown,
  doing: string,
): { ok: false; code: DeviceErrorCode; message: string } => {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  if (code === undefined || !/^E[A-Z0-9]+$/.test(code)) throw error;
  return { ok: false, code: FULL.has(code) ? 'NO_SPACE' : 'WRITE_FAILED', message: `${doing}: ${code}` };
};
