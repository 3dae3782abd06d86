/**
 * Everything that the server remembers. Each method is one transaction: all of it is committed, or none. One contract
 * suite (`test/server/store/contract.ts`) says what an engine must do; SQLite in a worker thread is the first engine.
 *
 * Times are integer milliseconds. Lists are read in pages (page.ts). Every list of ids that is passed in holds at most
 * 100,000.
 *
 * A record with a `revision` is saved with the revision that was read; the store counts it up, and answers `conflict`
 * when someone else has saved in between.
 */
import type { AuditStore } from './audit.ts';
import type { CatalogueStore } from './catalogue.ts';
import type { DecisionStore } from './decisions.ts';
import type { DesiredStore } from './desired.ts';
import type { DeviceStore } from './devices.ts';
import type { IngestStore } from './ingest.ts';
import type { OperatorStore } from './operators.ts';
import type { RecallStore } from './recalls.ts';
import type { RolloutStore } from './rollouts.ts';
import type { TransferStore } from './transfer.ts';

export type Store = CatalogueStore &
  OperatorStore &
  DeviceStore &
  RolloutStore &
  DecisionStore &
  RecallStore &
  IngestStore &
  DesiredStore &
  AuditStore &
  TransferStore & {
    close(): Promise<void>;

    // Small durable values (metadata versions, checkpoints)
    getMeta(key: string): Promise<string | undefined>;
    setMeta(key: string, value: string): Promise<void>;
  };
