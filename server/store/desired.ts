/** What devices are told, and the outbox through which they are. */
import type { Id, Millis } from '#shared/ids.ts';
import type { Desired, Instruction } from '#shared/messages.ts';

/** A desired document that is recorded but perhaps not signed yet. */
export type DesiredRecord = { device: Id; seq: number; instruction: Instruction; document: Desired | null; at: Millis };

/** Work that was recorded with the decision that asked for it, and is done at least once. */
export type OutboxEffect =
  /** Sign the unsigned desired documents of these devices as one batch, and push them. */
  { kind: 'publish-desired'; devices: Id[] };

export type OutboxItem = { id: number; effect: OutboxEffect };

export type DesiredStore = {
  getDesired(device: Id): Promise<DesiredRecord | undefined>;
  getDesiredMany(devices: Id[]): Promise<DesiredRecord[]>;
  /** Only where `seq` is still the newest. */
  saveDesiredDocuments(documents: { device: Id; seq: number; document: Desired }[]): Promise<void>;
  /**
   * After a restore: devices have seen higher numbers than this database knows of, and refuse them as replayed. All
   * documents are signed again.
   */
  skipDesiredSeqs(count: number): Promise<void>;
  /** The oldest items, which stay until they are finished. */
  takeOutbox(limit: number): Promise<OutboxItem[]>;
  finishOutbox(ids: number[]): Promise<void>;
};
