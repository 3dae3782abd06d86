/** What passes between the main thread and the thread that owns the database. */
export type WorkerInput = { file: string };
export type Request = { id: number; method: string; args: unknown[] };
export type SentError = { name: string; message: string; stack: string | undefined; code: string | undefined };
export type Answer = { id: number; value: unknown } | { id: number; error: SentError };
/** First `ready` with the names of the methods, or `failed`; then answers. */
export type FromWorker = { ready: string[] } | { failed: SentError } | Answer;
