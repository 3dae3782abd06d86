/** Devices: how they come, what they said last, which of them drift, and what they are named by. */
import type { Running } from '#shared/deployment.ts';
import type { Id, Millis, Sha256 } from '#shared/ids.ts';
import type { AuditLine } from './audit.ts';
import type { Page } from './page.ts';

export type DeviceState = 'pending' | 'accepted' | 'rejected';

export type DeviceRecord = {
  id: Id;
  /** Raw Ed25519 public key, hexadecimal. */
  publicKey: string;
  state: DeviceState;
  compatible: Id;
  tags: Record<string, string>;
  attributes: Record<string, string>;
  agent: string | null;
  running: Running | null;
  floor: number;
  boot: Id | null;
  online: boolean;
  healthy: boolean | null;
  enrolledAt: Millis;
  lastSeenAt: Millis | null;
  /**
   * Highest `seq` of a desired document made for this device, and of a state report committed from it (per
   * boot-independent device counter).
   */
  desiredSeq: number;
  reportSeq: number;
  /** The open deployment that owns the device, if any. */
  deployment: Id | null;
  /** When two devices were last seen to use its key; absent: never, since it has that key or was let in. */
  keySharedAt?: Millis;
};

export type EnrolmentTokenRecord = {
  tokenSha256: Sha256;
  expiresAt: Millis;
  /** When given, only this device may use it. */
  device: Id | null;
  tags: Record<string, string>;
  usedBy: Id | null;
};

/** A device that runs what no one told it to run, and what it should run. */
export type DriftRecord = { device: Id; expected: Running; running: Running; since: Millis; online: boolean };

export type CohortRecord = {
  name: Id;
  members: { kind: 'list'; devices: Id[] } | { kind: 'selector'; selector: string };
  createdAt: Millis;
};

export type DeviceStore = {
  createEnrolmentTokens(tokens: EnrolmentTokenRecord[], audit: AuditLine): Promise<void>;
  /**
   * Uses the token up in the same transaction when it is given and good; without one the device becomes `pending`.
   * Enrolling again with the same key is answered with what is there (`known`, whatever became of the token, since the
   * first answer may have been lost); a pending device that comes back with a good token is let in by it (`enrolled`).
   * `audit` is written only when `enrolled`.
   *
   * An id is given to another key only by a token that was made for this very id (`replaced`, with the line
   * `replacement`; without that line never). What the device said and was told before counts no more: its open deployments
   * are withdrawn, planned ones too where it is `compatible` with something else now, and it is accepted whatever it
   * was, since the token is the newer decision.
   */
  enrolDevice(
    device: Pick<DeviceRecord, 'id' | 'publicKey' | 'compatible' | 'attributes' | 'enrolledAt'>,
    tokenSha256: Sha256 | null,
    now: Millis,
    audit: AuditLine,
    replacement?: AuditLine,
  ): Promise<
    { result: 'enrolled' | 'known' | 'replaced'; device: DeviceRecord } | { result: 'token-invalid' | 'id-taken' }
  >;
  /**
   * Nothing that the device has reported so far counts any more, its numbers neither: for what slipped in while its key
   * was replaced.
   */
  forgetReports(device: Id): Promise<void>;

  getDevice(id: Id): Promise<DeviceRecord | undefined>;
  getDevices(ids: Id[]): Promise<DeviceRecord[]>;
  listDevices(filter: { state?: DeviceState | undefined }, page: Page): Promise<DeviceRecord[]>;
  /**
   * Shutting a device out ends its deployments too, planned ones and trials included, as `withdrawn`: it will not be heard
   * any more, and no rollout may wait for it forever. It is freed, what it was told is superseded by `none`, and tokens
   * that were made for it and not used are good no more.
   */
  setDeviceState(id: Id, to: 'accepted' | 'rejected', now: Millis, audit: AuditLine): Promise<DeviceRecord | undefined>;
  setDeviceTags(id: Id, tags: Record<string, string>, audit: AuditLine): Promise<DeviceRecord | undefined>;
  /** Applied in order. `boot` null leaves what is known. */
  setOnline(changes: { device: Id; online: boolean; boot: Id | null; at: Millis }[]): Promise<void>;
  /** The attribute `refused` is this from now on, until a state report says otherwise. Null: it is none. */
  noteRefusal(device: Id, code: string | null): Promise<void>;
  /**
   * Two devices use its key, at this time. `audit` is written only when it `began`: not seen in the hour (`SHARED_MS`)
   * before.
   */
  noteSharedKey(device: Id, at: Millis, audit: AuditLine): Promise<'began' | 'goes-on' | 'unknown'>;
  /** At start: no one is connected yet. */
  setAllOffline(): Promise<void>;
  countDevices(): Promise<{ state: DeviceState; online: boolean; devices: number }[]>;

  // Drift. Heartbeats and reports find it, and end it; a device that is being offered something, or is on trial of what
  // was offered, does not drift.
  /** By id. */
  listDrifted(page: Page): Promise<DriftRecord[]>;
  getDrift(device: Id): Promise<DriftRecord | undefined>;
  countDrifted(): Promise<number>;
  /**
   * From now on the device should run what it runs, if that still is this manifest and not what it should run anyway.
   */
  adoptRunning(device: Id, manifest: Sha256, audit: AuditLine): Promise<'adopted' | 'conflict'>;

  createCohort(cohort: CohortRecord, audit: AuditLine): Promise<'created' | 'exists'>;
  getCohort(name: Id): Promise<CohortRecord | undefined>;
  /** By name; the first 1,000 unless told. */
  listCohorts(page?: Page): Promise<CohortRecord[]>;
};
