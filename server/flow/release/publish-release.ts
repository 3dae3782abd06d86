/**
 * CI publishes: uploaded bundles of one release and the signed metadata that lists them become an accepted release, or
 * nothing does.
 */
import { z } from 'zod';
import { auditLine } from '#server/domain/audit.ts';
import type { BundleRecord, ProductRecord, ReleaseRecord } from '#server/store/catalogue.ts';
import type { Objects } from '#server/store/objects.ts';
import type { Store } from '#server/store/store.ts';
import type { Repository } from '#server/trust/repository.ts';
import { manifestPath, releaseRef, type Sha256 } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { checkDelegation } from '#shared/trust/delegation.ts';
import { compareVersions } from '#shared/version-order.ts';
import { everyPage } from '../every-page.ts';
import type { Upload, Uploads } from './accept-upload.ts';
import { keysOf } from './create-product.ts';
import { saveChunks } from './save-chunks.ts';

type PublishDeps = { store: Store; objects: Objects; repository: Repository; uploads: Uploads; now: () => number };

/**
 * All is checked before anything is kept. Then, in an order in which a crash leaves only files that nothing refers to:
 * objects, where their chunks are, manifests, and last the one transaction that makes the release.
 * Publishing the very same again is answered with what is there.
 */
export const publishRelease = async (
  deps: PublishDeps,
  input: { uploads: Sha256[]; metadata: string; by: string },
): Promise<Result<ReleaseRecord>> => {
  const found = findUploads(deps.uploads, input.uploads);
  if (!found.ok) return found;
  const uploads = found.value;
  const { product: name, version } = uploads[0].manifest;
  const product = await deps.store.getProduct(name);
  if (product === undefined) return refuse('not-found', `there is no product ${name}; make it first`);

  const known = await deps.store.getRelease(name, version);
  if (known !== undefined && holdsAll(known, uploads)) {
    for (const upload of uploads) await deps.uploads.discard(upload.sha256);
    return accept(known);
  }
  const free = await checkFree(deps.store, known, uploads);
  if (!free.ok) return free;
  const signed = await checkMetadata(deps, product, uploads, input.metadata);
  if (!signed.ok) return signed;

  return keepAndRecord(deps, uploads, { ...signed.value, document: input.metadata }, input.by);
};

/** The acts, in an order in which a crash leaves only files that nothing refers to. */
const keepAndRecord = async (
  deps: PublishDeps,
  uploads: [Upload, ...Upload[]],
  metadata: { version: number; document: string; keyIds: Sha256[] },
  by: string,
): Promise<Result<ReleaseRecord>> => {
  const at = deps.now();
  const { product, version } = uploads[0].manifest;
  const name = releaseRef(product, version);
  const keyId = metadata.keyIds.join();
  const bundles = uploads.map((upload) => bundleOf(upload, metadata.version, at, by));
  for (const upload of uploads) {
    for (const staged of upload.staged) await deps.objects.keep(staged);
    for (const artifact of upload.manifest.artifacts) await saveChunks(deps, artifact);
    await deps.repository.putManifest(pathOf(upload), upload.manifestBytes);
  }
  const accepted = await deps.store.acceptBundles(
    bundles,
    { product, version: metadata.version, document: metadata.document },
    bundles.map(({ compatible, manifestSha256: manifest }) =>
      auditLine({ at, by, kind: 'bundle-accepted', product, version, compatible, manifest, keyId }),
    ),
  );
  if (accepted === 'metadata-conflict') {
    return refuse('metadata-version-conflict', 'fetch the delegation again, sign again, publish again');
  }
  for (const upload of uploads) deps.uploads.forget(upload.sha256);
  const release = await deps.store.getRelease(product, version);
  // Taken by the very same, published twice at once: then both have succeeded.
  if (release === undefined || !holdsAll(release, uploads)) {
    return refuse('version-taken', `${name} was accepted in between; choose a new version`);
  }
  return accept(release);
};

const holdsAll = (release: ReleaseRecord, uploads: Upload[]): boolean =>
  uploads.every((upload) => release.bundles.some((bundle) => bundle.manifestSha256 === upload.manifestSha256));

const pathOf = ({ manifest }: Upload): string => manifestPath(manifest.product, manifest.version, manifest.compatible);

const findUploads = (uploads: Uploads, wanted: Sha256[]): Result<[Upload, ...Upload[]]> => {
  const found: Upload[] = [];
  for (const sha256 of new Set(wanted)) {
    const upload = uploads.get(sha256);
    if (upload === undefined) {
      return refuse(
        'not-found',
        `the upload ${sha256} is not here (uploads are forgotten after an hour): upload it again`,
      );
    }
    found.push(upload);
  }
  const [first, ...rest] = found;
  if (first === undefined) return refuse('invalid-request', 'name at least one upload');
  for (const { manifest } of rest) {
    if (manifest.product !== first.manifest.product || manifest.version !== first.manifest.version) {
      return refuse('bundle-invalid', 'all bundles of a publication must be of one product and one version');
    }
  }
  if (new Set(found.map(pathOf)).size !== found.length) {
    return refuse('bundle-invalid', 'there are two bundles for the same compatible');
  }
  return accept([first, ...rest]);
};

/**
 * Versions are immutable, and a later version may not have a lower counter: devices on the earlier one would refuse it.
 */
const checkFree = async (
  store: Pick<Store, 'listReleases'>,
  known: ReleaseRecord | undefined,
  uploads: [Upload, ...Upload[]],
): Promise<Result<void>> => {
  const { product, version } = uploads[0].manifest;
  if (known !== undefined && known.progress.state !== 'accepted') {
    return refuse('version-taken', `${releaseRef(product, version)} is ${known.progress.state}; choose a new version`);
  }
  for (const { manifest } of uploads) {
    if (known?.bundles.some((bundle) => bundle.compatible === manifest.compatible)) {
      return refuse('version-taken', `${releaseRef(product, version)} has a bundle for ${manifest.compatible} already`);
    }
  }
  const releases = everyPage(
    (page) => store.listReleases({ product }, page),
    (release) => releaseRef(release.product, release.version),
  );
  for await (const earlier of releases) {
    if (compareVersions(earlier.version, version) >= 0) continue;
    for (const bundle of earlier.bundles) {
      const upload = uploads.find(({ manifest }) => manifest.compatible === bundle.compatible);
      if (upload !== undefined && upload.manifest.securityCounter < bundle.manifest.securityCounter) {
        return refuse(
          'security-counter-too-low',
          `${earlier.version} for ${bundle.compatible} has security counter ${bundle.manifest.securityCounter}, ` +
            `so ${version} needs that or more; it has ${upload.manifest.securityCounter}`,
        );
      }
    }
  }
  return accept(undefined);
};

/** The metadata must be signed by a delegated key, be the next version, and add exactly the uploaded manifests. */
const checkMetadata = async (
  deps: Pick<PublishDeps, 'store' | 'now'>,
  product: ProductRecord,
  uploads: Upload[],
  document: string,
): Promise<Result<{ version: number; keyIds: Sha256[] }>> => {
  const previous = await deps.store.getDelegationMetadata(product.name);
  const checked = checkDelegation({
    document,
    product: product.name,
    keys: keysOf(product),
    versionExpected: (previous?.version ?? 0) + 1,
    now: deps.now(),
    previous: previous?.document ?? null,
  });
  if (!checked.ok) return checked;
  const { targets, version, keyIds } = checked.value;
  for (const upload of uploads) {
    const target = targets.get(pathOf(upload));
    if (target === undefined) {
      return refuse('signature-invalid', `the metadata does not list ${pathOf(upload)}, so no one signed for it`);
    }
    if (target.sha256 !== upload.manifestSha256 || target.length !== upload.manifestBytes.length) {
      return refuse('signature-invalid', `the metadata lists another manifest for ${pathOf(upload)} than was uploaded`);
    }
  }
  const listed = new Set([...(previous === undefined ? [] : pathsIn(previous.document)), ...uploads.map(pathOf)]);
  const extra = [...targets.keys()].filter((path) => !listed.has(path));
  if (extra.length > 0) {
    return refuse('bundle-invalid', `the metadata lists ${extra.slice(0, 3).join(', ')}, which was not uploaded`);
  }
  return accept({ version, keyIds });
};

const Document = z.object({ signed: z.object({ targets: z.record(z.string(), z.unknown()) }) });
const pathsIn = (document: string): string[] => Object.keys(Document.parse(JSON.parse(document)).signed.targets);

const bundleOf = (upload: Upload, metadataVersion: number, at: number, by: string): BundleRecord => ({
  product: upload.manifest.product,
  version: upload.manifest.version,
  compatible: upload.manifest.compatible,
  path: pathOf(upload),
  manifestSha256: upload.manifestSha256,
  manifestBytes: upload.manifestBytes.length,
  manifest: upload.manifest,
  metadataVersion,
  acceptedAt: at,
  acceptedBy: by,
});
