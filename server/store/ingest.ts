/** What devices say: heartbeats, reports and logs. */
import type { Running } from '#shared/deployment.ts';
import type { Id, Millis } from '#shared/ids.ts';
import type { LogPiece } from '#shared/messages.ts';
import type { DeploymentRecord } from '../domain/deployment/deployment.ts';
import type { AuditLine } from './audit.ts';

export type HeartbeatRow = {
  device: Id;
  boot: Id;
  at: Millis;
  running: Running | null;
  healthy: boolean;
  /** The deployment that it is on trial of, by its own report. */
  trialOf?: Id;
};

export type ReportRow = {
  device: Id;
  /** The key with which its receipts were checked. */
  publicKey: string;
  boot: Id;
  seq: number;
  at: Millis;
  agent: string;
  running: Running | null;
  floor: number;
  attributes: Record<string, string>;
  /** As in a heartbeat. */
  trialOf?: Id;
  /** The next state of the deployments that this report moves, with the revision that was stepped from. */
  deployments: DeploymentRecord[];
  audit: AuditLine[];
};

/** A piece of a device's log, and when it came by the server's clock. */
export type DeviceLogRecord = LogPiece & { device: Id; receivedAt: Millis };

export type IngestStore = {
  /**
   * Latest heartbeats, one per device, written in one go. One that is older than what the device was last seen with
   * changes nothing.
   */
  saveHeartbeats(heartbeats: HeartbeatRow[]): Promise<void>;
  /**
   * State reports with what they did to deployments. A report whose `seq` is not greater than the device's `reportSeq`
   * changes nothing (it was seen), but is still acknowledged. `conflicts` lists deployments whose revision had moved:
   * of their reports nothing is saved, not even that they were seen, so load again and retry those. One that was read
   * under a key that the device has no more changes nothing either. A deployment that reaches an end frees its device;
   * one that comes back makes its rollout due again, at its deadline.
   */
  saveReports(reports: ReportRow[]): Promise<{ conflicts: Id[] }>;

  /** Those that are not known yet; of each device only the newest, `deviceBytesMax` together, are kept. */
  saveDeviceLogs(logs: DeviceLogRecord[], deviceBytesMax: number): Promise<void>;
  /** Newest first; `before` is the `n` of a piece. */
  listDeviceLogs(
    device: Id,
    filter: { deployment?: Id | undefined },
    page: { before?: number | undefined; limit: number },
  ): Promise<(DeviceLogRecord & { n: number })[]>;
  /** Those received before `before`, and of the rest the oldest until they have `bytesMax` together, go. How many. */
  trimDeviceLogs(before: Millis, bytesMax: number): Promise<number>;
};
