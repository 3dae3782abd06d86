/** Products and their releases: what is in them, what has been said of them, and where they may go. */
import type { Id, Millis, Sha256 } from '#shared/ids.ts';
import type { Manifest } from '#shared/manifest.ts';
import type { ReleaseApproval, ReleaseCheck } from '../domain/release/promotion.ts';
import type { AuditLine } from './audit.ts';
import type { Page } from './page.ts';

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

export type ReleaseRecord = {
  product: Id;
  version: string;
  progress: ReleaseState;
  acceptedAt: Millis;
  bundles: BundleRecord[];
};

export type BundleWithChange = Pick<BundleRecord, 'product' | 'version' | 'compatible'> & {
  progress: ReleaseState;
  devices: number;
};

export type DeviceWithChange = Pick<BundleRecord, 'product' | 'version' | 'compatible'> & {
  device: Id;
  online: boolean;
};

export type CatalogueStore = {
  createProduct(product: ProductRecord, audit: AuditLine): Promise<'created' | 'exists'>;
  /** By name; the first 1,000 unless told. */
  listProducts(page?: Page): Promise<ProductRecord[]>;
  getProduct(name: Id): Promise<ProductRecord | undefined>;
  /**
   * All bundles or none; `taken` when one (product, version, compatible) exists or the release is past `accepted`;
   * `metadata-conflict` when `metadataVersion` is not the stored one plus one.
   */
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
  /** The latest result of each check wins; `known` when it says nothing new, `full` beyond 64 checks of one release. */
  saveCheck(check: ReleaseCheck, audit: AuditLine): Promise<'saved' | 'known' | 'full'>;
  /** One approval of a release for a channel by each person; `known` when it was given before. */
  approveRelease(approval: ReleaseApproval, audit: AuditLine): Promise<'approved' | 'known'>;
  /**
   * Checks by name, approvals in the order in which they were given. What was said of a release holds for the bundles
   * that it had then: accepting another bundle of it forgets all of this.
   */
  getReleaseEvidence(product: Id, version: string): Promise<{ checks: ReleaseCheck[]; approvals: ReleaseApproval[] }>;
  findBundle(manifestSha256: Sha256): Promise<BundleRecord | undefined>;
  /**
   * Bundles whose manifest names the change, those of the newest release first, with how many accepted devices run
   * each; at most 1,000.
   */
  findChange(change: string): Promise<BundleWithChange[]>;
  /** Accepted devices that run such a bundle, by id. */
  listDevicesWithChange(change: string, page: Page): Promise<DeviceWithChange[]>;
  /**
   * Digests of what bundles need (artifacts, their indexes, attachments) and of packs: everything else on disk may go.
   */
  listReferencedObjects(): Promise<Sha256[]>;
};
