/** What flows and the broker tell the counters; server/http/metrics.ts implements it. */
export type MessageKind = 'state' | 'heartbeat' | 'online' | 'log';
/**
 * `taken`: parsed and queued. `malformed`: not of the agreed form. `dropped`: no room, the device will say it again.
 * `saved`, `seen`: a state report is committed now, or was before. `lost`: the store failed; the device will say it
 * again.
 */
type MessageOutcome = 'taken' | 'malformed' | 'dropped' | 'saved' | 'seen' | 'lost';
export type Observer = {
  message(kind: MessageKind, outcome: MessageOutcome, count?: number): void;
  /** From the arrival of the batch's first message until the batch was committed. */
  ingested(kind: 'state' | 'heartbeat', ms: number): void;
  /** A connection, or something on it, that the broker refused; `why` is one of a few words. */
  refused(why: string): void;
  receiptRefused(): void;
  /** A device connected while a connection of it was open. */
  takenOver(): void;
  /** Two devices were found to use one key. */
  keyShared(): void;
};
