/**
 * Everything that the server remembers. Each method is one transaction: all of it is committed, or none. One contract
 * suite (`test/store/contract.ts`) says what an engine must do; SQLite in a worker thread is the first engine.
 *
 * Times are integer milliseconds. Lists are bounded (a page has at most 10,000 entries, more throws a `RangeError`) and
 * paged by `after` (exclusive), which names the last entry of the page before: by name or id where the list is in that
 * order, `product@version` for releases, the id for rollouts (both newest first) and deployments (in the order in which they were planned).
 * Every list of ids that is passed in holds at most 100,000.
 *
 * A record with a `revision` is saved with the revision that was read; the store counts it up, and answers `conflict`
 * when somebody else has saved in between.
 */
import type { DeploymentState, OverdueClass, Running } from '#shared/deployment.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { Manifest } from '#shared/manifest.ts';
import type { Desired, Instruction, LogPiece } from '#shared/messages.ts';
import type { StayReason } from '#shared/recall.ts';
import type { OpenSpan } from '#shared/windows.ts';
import type { DeploymentRecord, OutcomeBin } from '../domain/deployment.ts';
import type { WatchedHealth } from '../domain/late-regression.ts';
import type { ReleaseApproval, ReleaseCheck } from '../domain/promotion.ts';
import type { Recallable } from '../domain/recall.ts';
import type { CoolingDown } from '../domain/retry.ts';
import type { RolloutPlan, RolloutState } from '../domain/rollout.ts';
import type { TransferStore } from './transfer.ts';

/** Owned by the domain; named here too for those who only know the store. */
export type { DeploymentRecord, OutcomeBin } from '../domain/deployment.ts';

export type Millis = number;
export type Page = { after?: string | undefined; limit: number };

/** One line of the audit log. `payload` is canonical JSON: exactly the bytes that the Merkle leaf hashes. */
export type AuditLine = { payload: string };
export type AuditEntry = { index: number; payload: string };
/** The right edge of the audit log's Merkle tree: hashes of the perfect subtrees, largest first (RFC 6962, section 2.1). */
export type AuditHead = { size: number; subtrees: Sha256[] };

export type ProductRecord = { name: Id; keys: string[]; createdAt: Millis };

export type ReleaseState =
  | { state: 'accepted' }
  | { state: 'staged'; channels: Id[] }
  | { state: 'withdrawn'; at: Millis; by: string; reason: string };
export type BundleRecord = {
  product: Id;
  version: string;
  compatible: Id;
  path: string;
  manifestSha256: Sha256;
  manifestBytes: number;
  manifest: Manifest;
  /** The version of the `ci-<product>` metadata that first lists this bundle. */
  metadataVersion: number;
  acceptedAt: Millis;
  acceptedBy: string;
};
export type BundleWithChange = Pick<BundleRecord, 'product' | 'version' | 'compatible'> & {
  progress: ReleaseState;
  devices: number;
};
export type DeviceWithChange = Pick<BundleRecord, 'product' | 'version' | 'compatible'> & {
  device: Id;
  online: boolean;
};
export type ReleaseRecord = {
  product: Id;
  version: string;
  progress: ReleaseState;
  acceptedAt: Millis;
  bundles: BundleRecord[];
};

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
  /** Highest `seq` of a desired document made for this device, and of a state report committed from it (per boot-independent device counter). */
  desiredSeq: number;
  reportSeq: number;
  /** The open deployment that owns the device, if any. */
  deployment: Id | null;
};

/** A device that runs what nobody told it to run, and what it should run. */
export type DriftRecord = { device: Id; expected: Running; running: Running; since: Millis; online: boolean };

export type CohortRecord = {
  name: Id;
  members: { kind: 'list'; devices: Id[] } | { kind: 'selector'; selector: string };
  createdAt: Millis;
};

export type RolloutRecord = {
  plan: RolloutPlan;
  progress: RolloutState;
  nextTickAt: Millis | null;
  revision: number;
  /** The digest of the newest decision; absent before the first. Only the store moves it. */
  decided?: Sha256;
};

/**
 * A decision as domain/decision.ts records it, and its digest. `onlyIfOffered`: kept when somebody was offered something or skipped, and the first time
 * in a row that nobody was free; the same answer every second is no news.
 */
export type DecisionToKeep = { record: string; sha256: Sha256; at: Millis; onlyIfOffered: boolean };
/**
 * `n` counts from 1 in each rollout. `record`: null where what is stored can not be read any more. `blockers`: who had the devices, where fewer were free than it allowed. Its lines in the audit log are
 * from `auditFrom` up to, but without, `auditTo`.
 */
export type KeptDecision = {
  n: number;
  at: Millis;
  sha256: Sha256;
  record: string | null;
  offered: number;
  skipped: number;
  withdrawn: number;
  blockers: { rollout: Id; devices: number }[];
  auditFrom: number;
  auditTo: number;
  /** The line of the audit log that says that those before it were pruned. */
  pruned: number | null;
};

export type OutboxItem = { id: number; effect: OutboxEffect };
/** Work that was recorded with the decision that asked for it, and is done at least once. */
export type OutboxEffect =
  /** Sign the unsigned desired documents of these devices as one batch, and push them. */
  { kind: 'publish-desired'; devices: Id[] };

/** A desired document that is recorded but perhaps not signed yet. */
export type DesiredRecord = { device: Id; seq: number; instruction: Instruction; document: Desired | null; at: Millis };

export type OperatorRole = 'admin' | 'operator' | 'ci' | 'viewer';
export type OperatorRecord = {
  name: string;
  role: OperatorRole;
  tokenSha256: Sha256;
  createdAt: Millis;
  revokedAt: Millis | null;
};
export type EnrolmentTokenRecord = {
  tokenSha256: Sha256;
  expiresAt: Millis;
  /** When given, only this device may use it. */
  device: Id | null;
  tags: Record<string, string>;
  usedBy: Id | null;
};

/** What is kept for transfers is in transfer.ts. */
export type Store = TransferStore & {
  close(): Promise<void>;

  // Products and releases
  createProduct(product: ProductRecord, audit: AuditLine): Promise<'created' | 'exists'>;
  /** By name; the first 1,000 unless told. */
  listProducts(page?: Page): Promise<ProductRecord[]>;
  getProduct(name: Id): Promise<ProductRecord | undefined>;
  /** All bundles or none; `taken` when one (product, version, compatible) exists or the release is past `accepted`; `metadata-conflict` when `metadataVersion` is not the stored one plus one. */
  acceptBundles(
    bundles: BundleRecord[],
    metadata: { product: Id; version: number; document: string },
    audit: AuditLine[],
  ): Promise<'accepted' | 'taken' | 'metadata-conflict'>;
  /** The newest accepted `ci-<product>` metadata, or the one of that version. */
  getDelegationMetadata(product: Id, version?: number): Promise<{ version: number; document: string } | undefined>;
  getRelease(product: Id, version: string): Promise<ReleaseRecord | undefined>;
  listReleases(filter: { product?: Id | undefined }, page: Page): Promise<ReleaseRecord[]>;
  saveRelease(
    product: Id,
    version: string,
    from: ReleaseState,
    to: ReleaseState,
    audit: AuditLine,
  ): Promise<'saved' | 'conflict'>;
  /** The newest word of each check wins; `known` when it says nothing new, `full` beyond 64 checks of one release. */
  saveCheck(check: ReleaseCheck, audit: AuditLine): Promise<'saved' | 'known' | 'full'>;
  /** One approval of a release for a channel by each person; `known` when it was given before. */
  approveRelease(approval: ReleaseApproval, audit: AuditLine): Promise<'approved' | 'known'>;
  /**
   * Checks by name, approvals in the order in which they were given. What was said of a release holds for the bundles that
   * it had then: accepting another bundle of it forgets all of this.
   */
  getReleaseEvidence(product: Id, version: string): Promise<{ checks: ReleaseCheck[]; approvals: ReleaseApproval[] }>;
  findBundle(manifestSha256: Sha256): Promise<BundleRecord | undefined>;
  /** Bundles whose manifest names the change, those of the newest release first, with how many accepted devices run each; at most 1,000. */
  findChange(change: string): Promise<BundleWithChange[]>;
  /** Accepted devices that run such a bundle, by id. */
  listDevicesWithChange(change: string, page: Page): Promise<DeviceWithChange[]>;
  /** Digests of what bundles need (artifacts, their indexes, attachments) and of packs: everything else on disk may go. */
  listReferencedObjects(): Promise<Sha256[]>;

  // Operators and enrolment
  createOperator(operator: OperatorRecord, audit: AuditLine): Promise<'created' | 'exists'>;
  /** A revoked operator is not found. */
  findOperator(tokenSha256: Sha256): Promise<OperatorRecord | undefined>;
  /** By name; the first 1,000 unless told. */
  listOperators(page?: Page): Promise<OperatorRecord[]>;
  /** `not-found` also when it was revoked before. */
  revokeOperator(name: string, at: Millis, audit: AuditLine): Promise<'revoked' | 'not-found'>;
  createEnrolmentTokens(tokens: EnrolmentTokenRecord[], audit: AuditLine): Promise<void>;
  /**
   * Uses the token up in the same transaction when it is given and good; without one the device becomes `pending`.
   * Enrolling again with the same key is answered with what is there (`known`, whatever became of the token, since the
   * first answer may have been lost); a pending device that comes back with a good token is let in by it (`enrolled`).
   * `audit` is written only when `enrolled`.
   *
   * An id is given to another key only by a token that was made for this very id (`replaced`, with the line `replacement`; without
   * that line never). What the device said and was told before counts no more: its open journeys are withdrawn, planned ones too where
   * it is `compatible` with something else now, and it is accepted whatever it was, since the token is the newer decision.
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
  /** Nothing that the device has reported so far counts any more, its numbers neither: for what slipped in while its key was replaced. */
  forgetReports(device: Id): Promise<void>;

  // Devices
  getDevice(id: Id): Promise<DeviceRecord | undefined>;
  getDevices(ids: Id[]): Promise<DeviceRecord[]>;
  listDevices(filter: { state?: DeviceState | undefined }, page: Page): Promise<DeviceRecord[]>;
  /**
   * Shutting a device out ends its journeys too, planned ones and trials included, as `withdrawn`: it will not be heard any
   * more, and no rollout may wait for it for ever. It is freed, what it was told is superseded by `none`, and tokens that were
   * made for it and not used are good no more.
   */
  setDeviceState(id: Id, to: 'accepted' | 'rejected', now: Millis, audit: AuditLine): Promise<DeviceRecord | undefined>;
  setDeviceTags(id: Id, tags: Record<string, string>, audit: AuditLine): Promise<DeviceRecord | undefined>;
  /** Applied in order. `boot` null leaves what is known. */
  setOnline(changes: { device: Id; online: boolean; boot: Id | null; at: Millis }[]): Promise<void>;
  /** At start: nobody is connected yet. */
  setAllOffline(): Promise<void>;
  countDevices(): Promise<{ state: DeviceState; online: boolean; devices: number }[]>;

  // Drift: heartbeats and reports find it, and end it; a device that is being offered something, or is on trial of what was offered, does not drift
  /** By id. */
  listDrifted(page: Page): Promise<DriftRecord[]>;
  getDrift(device: Id): Promise<DriftRecord | undefined>;
  countDrifted(): Promise<number>;
  /** From now on the device should run what it runs, if that still is this manifest and not what it should run anyway. */
  adoptRunning(device: Id, manifest: Sha256, audit: AuditLine): Promise<'adopted' | 'conflict'>;

  // Recalls
  /**
   * Devices that run the release of this rollout because of it, or ran it before (`skipped`), each with what it ran then; in the order of
   * planning, at most `limit`. Not those that committed another rollout later, that are on their way back in a rollout that
   * `recalls` this one, or for which `saveRecall` has decided something since `since`.
   */
  listRecallable(rollout: Id, since: Millis, limit: number): Promise<Recallable[]>;
  /** `conflict` where `recalled`, or a rollout that is joined, was saved by somebody else since it was read. */
  saveRecall(save: {
    recalled: RolloutRecord;
    created: { rollout: RolloutRecord; deployments: DeploymentRecord[] }[];
    joined: { rollout: RolloutRecord; deployments: DeploymentRecord[] }[];
    stays: { device: Id; reason: StayReason }[];
    audit: AuditLine[];
    now: Millis;
  }): Promise<'saved' | 'conflict'>;
  /** Rollouts that take devices of this one back, oldest first. */
  listRecalls(rollout: Id): Promise<{ id: Id; product: string; version: string; devices: number }[]>;
  /** Who can not go back, by reason, the most first; the first 20 devices of each by name. */
  listStays(rollout: Id, since: Millis): Promise<{ reason: StayReason; devices: number; named: Id[] }[]>;

  // Cohorts
  createCohort(cohort: CohortRecord, audit: AuditLine): Promise<'created' | 'exists'>;
  getCohort(name: Id): Promise<CohortRecord | undefined>;
  /** By name; the first 1,000 unless told. */
  listCohorts(page?: Page): Promise<CohortRecord[]>;

  // Rollouts
  /** Devices that were shut out while the rollout was planned are withdrawn from it at once. */
  createRollout(rollout: RolloutRecord, deployments: DeploymentRecord[], audit: AuditLine[]): Promise<void>;
  /** Several at once, each with a cohort made for it: all, or none when a name is taken, which throws. */
  createRollouts(
    planned: { cohort: CohortRecord; rollout: RolloutRecord; deployments: DeploymentRecord[] }[],
    audit: AuditLine[],
  ): Promise<void>;
  getRollout(id: Id): Promise<RolloutRecord | undefined>;
  /** Newest first. */
  listRollouts(page: Page): Promise<RolloutRecord[]>;
  /** All rollouts of a release, newest first; the newest 1,000. */
  listRolloutsOf(product: Id, version: string): Promise<RolloutRecord[]>;
  /** Not completed or aborted, in the order in which they get devices: highest priority first, then the oldest; at most 1,000. */
  listOpenRollouts(): Promise<RolloutRecord[]>;
  listDueRollouts(now: Millis, limit: number): Promise<RolloutRecord[]>;
  /** Kept as counters in the transaction that changes a state. */
  countDeployments(rollout: Id): Promise<DeploymentCount[]>;
  /** The same, recounted from the rows: a periodic check of the counters. */
  recountDeployments(rollout: Id): Promise<DeploymentCount[]>;
  /** What these devices accepted and became overdue with, silent or stuck, and have not been offered anything since. */
  listLate(devices: Id[]): Promise<DeploymentRecord[]>;
  /** Devices that never began to act on an offer: planned, or withdrawn or overdue before they accepted, and no earlier attempt failed. */
  countUntouched(rollout: Id): Promise<number>;
  /** Planned devices whose next attempt may not begin yet; undefined when there are none. */
  getCoolingDown(rollout: Id, now: Millis): Promise<CoolingDown | undefined>;
  getOutcomeBins(rollout: Id, binMs: number): Promise<OutcomeBin[]>;
  /**
   * Turns deployments past their deadline `overdue` (`never-heard` when nothing was accepted; `stuck` when the device is connected,
   * and was heard since, and lately; `silent` otherwise), at most `limit`, and returns them. All kinds free their device, and supersede its desired document by `none`: a device that
   * stays silent must be able to get something new one day, and two rollouts may never own it at once.
   */
  markOverdue(rollout: Id, now: Millis, limit: number, auditOf: AuditStamp): Promise<DeploymentRecord[]>;
  /** At start: deadlines before `until`, passed ones too, are moved to it; nobody could report while the server was away. How many they were. */
  extendDeadlines(until: Millis): Promise<number>;
  /**
   * The record half of "record, then act": saves the next state when `revision` still holds, makes the offers and
   * withdrawals that the step asked for, their desired documents and outbox lines, and the audit, all in one transaction.
   * Where `nextTickAt` is null but a deployment has a deadline, the rollout stays due at the earliest: nobody else keeps it.
   */
  saveRollout(save: {
    rollout: RolloutRecord;
    offers: OfferRequest[];
    /** Withdraw everything offered and not yet activated (offered, fetching, installing, ready); `planned` too when the rollout ends. Done before the offers. */
    withdraw: { reason: string; planned: boolean } | null;
    /** Record in the plan that everybody may activate, and tell those who wait for it. Done before the offers. */
    activate?: boolean;
    /**
     * Back to `planned` with what a halt (a `withdraw` without `planned`) withdrew of accepted devices, and nobody has moved
     * since: what was withdrawn because a device was shut out, or by its own word, stays so. Done before the offers.
     */
    replan: boolean;
    /** Kept in the same transaction, with what it led to. */
    decision?: DecisionToKeep;
    audit: AuditLine[];
    now: Millis;
    /** Ids of deployments; `withdrawn` without those that were only planned. */
  }): Promise<{ result: 'saved'; offered: Id[]; withdrawn: Id[]; skipped: Id[] } | { result: 'conflict' }>;
  /** What this rollout decided, newest first; `before` is the number of a decision. */
  listDecisions(rollout: Id, page: { before?: number | undefined; limit: number }): Promise<KeptDecision[]>;
  /**
   * Of at most `limit` rollouts that are over, at rest, and have decided nothing since `before`: all but the newest decision go, and the
   * audit log says which. Not where one is missing or the newest can not be read: what was done to them stays to be seen. How many went.
   */
  pruneDecisions(before: Millis, now: Millis, limit: number): Promise<number>;
  /**
   * Deployments committed after `committedSince` whose device, by its heartbeats since, may not be well, at most `limit`. A
   * device that was offered something since is not watched any more.
   */
  listSuspects(rollout: Id, committedSince: Millis, limit: number): Promise<WatchedDeployment[]>;
  /** Those whose revision still holds, each with its audit lines. How many they were. */
  saveRegressions(moves: { next: DeploymentRecord; audit: AuditLine[] }[]): Promise<number>;
  /** Of these devices, those that have no deployment in the rollout. */
  listOutside(rollout: Id, devices: Id[]): Promise<Id[]>;
  /** Devices join the rollout, as it was read: the sizes of its waves grow with them, and it is due. */
  addDeployments(
    rollout: RolloutRecord,
    joined: DeploymentRecord[],
    audit: AuditLine[],
    now: Millis,
  ): Promise<'added' | 'conflict'>;
  /** Which rollouts own the planned devices of this one or come first for them, and how many each; most first. One whose window is shut comes first for nobody. */
  listBlockers(rollout: Id, shutAbove: ShutWindow[]): Promise<{ rollout: Id; devices: number }[]>;
  /** The rollouts that run and come before this one. */
  listRunningAbove(rollout: Id): Promise<RolloutPlan[]>;
  /** Time zones that the planned devices of a rollout report, by cohort; '' for none. */
  listTimeZones(rollout: Id): Promise<{ cohort: Id; zone: string }[]>;
  /** Ends the waits that are over: what is installed counts as accepted `now`, and has `withinMs` to activate. How many. */
  releaseHeld(rollout: Id, now: Millis, withinMs: number): Promise<number>;
  /** Devices that have not activated and were told only of windows that are past, or of those of another time zone than they report now. */
  listOutOfWindows(rollout: Id, now: Millis, limit: number): Promise<{ deployment: Id; cohort: Id; zone: string }[]>;
  /** Tells them of these instead. */
  renewWindows(renewals: WindowRenewal[], now: Millis): Promise<void>;
  listDeployments(
    filter: { rollout?: Id | undefined; device?: Id | undefined; state?: DeploymentState | undefined },
    page: Page,
  ): Promise<DeploymentRecord[]>;
  getDeployments(ids: Id[]): Promise<DeploymentRecord[]>;

  // Ingest
  /** Latest heartbeats, one per device, written in one go. One that is older than what the device was last seen with changes nothing. */
  saveHeartbeats(heartbeats: HeartbeatRow[]): Promise<void>;
  /**
   * State reports with what they did to deployments. A report whose `seq` is not greater than the device's `reportSeq`
   * changes nothing (it was seen), but is still acknowledged. `conflicts` lists deployments whose revision had moved: of
   * their reports nothing is saved, not even that they were seen, so load again and retry those.
   * One that was read under a key that the device has no more changes nothing either.
   * A deployment that reaches an end frees its device; one that comes back makes its rollout due again, at its deadline.
   */
  saveReports(reports: ReportRow[]): Promise<{ conflicts: Id[] }>;

  // Logs of devices
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

  // Desired documents and the outbox
  getDesired(device: Id): Promise<DesiredRecord | undefined>;
  getDesiredMany(devices: Id[]): Promise<DesiredRecord[]>;
  /** Only where `seq` is still the newest. */
  saveDesiredDocuments(documents: { device: Id; seq: number; document: Desired }[]): Promise<void>;
  /** The oldest items, which stay until they are finished. */
  /** After a restore: devices have seen higher numbers than this database knows of, and refuse them as replayed. All documents are signed anew. */
  skipDesiredSeqs(count: number): Promise<void>;
  takeOutbox(limit: number): Promise<OutboxItem[]>;
  finishOutbox(ids: number[]): Promise<void>;

  // Audit
  appendAudit(lines: AuditLine[]): Promise<void>;
  /** Entries with an index above `after`; -1 for the first page. */
  readAudit(after: number, limit: number): Promise<AuditEntry[]>;
  getAuditHead(): Promise<AuditHead>;
  /** Receipts and other audit lines whose `device` or `devices` name this device, newest first, perhaps only those of one kind; `before` is an index. */
  listDeviceAudit(
    device: Id,
    page: { before?: number | undefined; limit: number; kind?: string | undefined },
  ): Promise<AuditEntry[]>;

  // Small durable values (metadata versions, checkpoints)
  getMeta(key: string): Promise<string | undefined>;
  setMeta(key: string, value: string): Promise<void>;
};

/** Everything of an install instruction but the deployment, which the store fills in for each device it offers to. */
export type InstructionTemplate = Omit<Extract<Instruction, { kind: 'install' }>, 'deployment'>;

/** What a device that has not activated is to be told instead, and for which time zone ('' for none). */
export type WindowRenewal = { deployment: Id; windows: OpenSpan[]; zone: string };

/** Outside of its maintenance windows: devices of one cohort of a rollout that are in this time zone ('' where they report none). */
export type ShutWindow = { rollout: Id; cohort: Id; zone: string };

/**
 * Offer the release to at most `atMost` planned deployments of this wave and group whose device is accepted and owned by
 * no other deployment: connected ones first, then by position. Those of the group that run exactly this manifest
 * already are `skipped` on the way, even where `atMost` is 0. A device that a running rollout of higher priority still wants is
 * left to it. Where these are not enough, devices are taken over from rollouts of lower priority as long as they have not
 * activated: there they are planned again.
 */
export type OfferRequest = {
  wave: number;
  cohort: Id;
  compatible: Id;
  atMost: number;
  acceptBy: Millis;
  instruction: InstructionTemplate;
  /** The digest of the decision that offers. */
  decision?: Sha256;
  /** Where rollouts that come first may not act now: there they keep nobody from this one. */
  shutAbove?: ShutWindow[];
  /** Only to devices in one of these time zones ('' for those that report none), each with the spans in which it may act. Absent: at any time. */
  zones?: { zone: string; windows: OpenSpan[] }[];
};

/** `reached`: of overdue ones, the state they were in when they became so; null of all others. */
export type DeploymentCount = {
  wave: number;
  state: DeploymentState;
  overdue: OverdueClass | null;
  reached: DeploymentState | null;
  devices: number;
};

/** In whose name the store words the audit lines for rows that only it picks. */
export type AuditStamp = { kind: 'overdue'; rollout: Id; by: string };

/** A committed deployment, and how its device has been since. */
export type WatchedDeployment = { deployment: DeploymentRecord; health: WatchedHealth };

export type HeartbeatRow = {
  device: Id;
  boot: Id;
  at: Millis;
  running: Running | null;
  healthy: boolean;
  /** The deployment that it is on trial of, by its own word. */
  trialOf?: Id;
};

/** A piece of a device's log, and when it came by the server's clock. */
export type DeviceLogRecord = LogPiece & { device: Id; receivedAt: Millis };

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
