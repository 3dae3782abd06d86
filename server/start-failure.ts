/** Why the server does not start, in words for the person who started it: no bug, so a stack trace would not help. */
export class StartFailure extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, { cause });
    this.name = 'StartFailure';
  }
}

/**
 * What a part of the data folder says of itself when it cannot be opened is meant for people; `docs/operations.md` has
 * backup and restore.
 */
export const cannotStart =
  (what: string) =>
  (error: unknown): never => {
    throw new StartFailure(`${what}: ${error instanceof Error ? error.message : String(error)}`, error);
  };

/** A listening socket that could not be had, in words. Anything else is returned as it is. */
export const explainListen = (error: unknown, what: 'HTTP' | 'MQTT', at: { host: string; port: number }): unknown => {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const where = `${at.host}:${at.port}`;
  const flag = `--${what.toLowerCase()}`;
  if (code === 'EADDRINUSE') {
    return new StartFailure(
      `${what} cannot listen on ${where}: the port is taken; choose another with ${flag}-port`,
      error,
    );
  }
  if (code === 'EACCES') {
    return new StartFailure(
      `${what} cannot listen on ${where}: ports below 1024 need permission (${flag}-port)`,
      error,
    );
  }
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') {
    return new StartFailure(
      `${what} cannot listen on ${where}: this machine has no such address (${flag}-host)`,
      error,
    );
  }
  return error;
};
