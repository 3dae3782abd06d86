/**
 * What can go wrong with the network while an artifact is assembled: thrown inside agent/transfer, a value outside of
 * it.
 */
import type { DeviceErrorCode } from '#shared/deployment.ts';

/**
 * `retry`: the same request may succeed later. `missing`: the server says that it has no such object, or never gives
 * it.
 */
export class TransferError extends Error {
  override name = 'TransferError';
  readonly code: DeviceErrorCode;
  readonly retry: boolean;
  readonly missing: boolean;

  constructor(code: DeviceErrorCode, message: string, more: { retry?: boolean; missing?: boolean } = {}) {
    super(message);
    this.code = code;
    this.retry = more.retry ?? true;
    this.missing = more.missing ?? false;
  }
}

/** The caller does not want it any more. */
export const stopped = (): TransferError =>
  new TransferError('FETCH_FAILED', 'the download was stopped', { retry: false });

/** The system's reason is in `cause`. */
export const reasonOf = (error: unknown): string => {
  const { message, cause } = error instanceof Error ? error : new Error(String(error));
  return cause instanceof Error ? `${message} (${cause.message})` : message;
};
