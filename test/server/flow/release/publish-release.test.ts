import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { createProduct } from '#server/flow/release/create-product.ts';
import { publishRelease } from '#server/flow/release/publish-release.ts';
import { openKeyring } from '#server/trust/keyring.ts';
import { openRepository } from '#server/trust/repository.ts';
import { Id, manifestPath } from '#shared/ids.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { generatePrivateKey, signerFromPem } from '#shared/trust/signers.ts';
import {
  type BundleFile,
  GATEWAY,
  kindsOf,
  makeBundle,
  makeProduct,
  must,
  newSigner,
  openWorld,
  publish,
  signBundles,
  upload,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();
beforeEach(async () => {
  must(await makeProduct(world));
});

const publishWith = (bundles: BundleFile[], metadata: string) =>
  publishRelease(world, { uploads: bundles.map(({ sha256 }) => sha256), metadata, by: 'ci' });
const refused = (code: string) => expect.objectContaining({ ok: false, code });

test('uploaded bundles with signed metadata become an accepted release, and its objects are kept', async () => {
  const bundles = [await makeBundle(world, '1.0.0'), await makeBundle(world, '1.0.0', { compatible: 'gw3' })];
  const release = must(await publish(world, bundles));
  expect(release.progress).toEqual({ state: 'accepted' });
  expect(release.bundles.map(({ compatible }) => compatible)).toEqual(['gw2', 'gw3']);
  for (const { manifest } of release.bundles) {
    expect(await world.objects.size(manifest.artifacts[0]!.sha256)).toBe(manifest.artifacts[0]!.bytes);
  }
  expect(await kindsOf(world)).toEqual(['product-created', 'bundle-accepted', 'bundle-accepted']);
});

test('publishing the very same again is answered with what is there, and changes nothing', async () => {
  const bundle = await makeBundle(world, '1.0.0');
  const first = must(await publish(world, [bundle]));
  const before = await kindsOf(world);
  expect(must(await publish(world, [bundle]))).toEqual(first);
  expect(await kindsOf(world)).toEqual(before);
  expect(world.uploads.get(bundle.sha256)).toBeUndefined();
});

test('the very same published twice at once succeeds twice', async () => {
  const bundle = await makeBundle(world, '1.0.0');
  must(await upload(world, bundle));
  const metadata = await signBundles(world, [bundle]);
  const both = await Promise.all([publishWith([bundle], metadata), publishWith([bundle], metadata)]);
  expect(both.some(({ ok }) => ok)).toBe(true);
  expect(both.every((one) => one.ok || one.code === 'metadata-version-conflict')).toBe(true);
  expect((await kindsOf(world)).filter((kind) => kind === 'bundle-accepted')).toHaveLength(1);
});

test('a version that was accepted with other content is taken', async () => {
  must(await publish(world, [await makeBundle(world, '1.0.0')]));
  const other = await makeBundle(world, '1.0.0', { content: 'other content' });
  must(await upload(world, other));
  expect(await publishWith([other], '{}')).toEqual(refused('version-taken'));
});

test('an upload that is not here has to be made again', async () => {
  const bundle = await makeBundle(world, '1.0.0');
  expect(await publishWith([bundle], await signBundles(world, [bundle]))).toEqual(refused('not-found'));
});

test('a bundle of a product that does not exist is refused', async () => {
  const bundle = await makeBundle(world, '1.0.0', { product: 'sensor' });
  must(await upload(world, bundle));
  expect(await publishWith([bundle], '{}')).toEqual(refused('not-found'));
});

test('bundles of two versions are no release', async () => {
  const bundles = [await makeBundle(world, '1.0.0'), await makeBundle(world, '1.0.1')];
  expect(await publish(world, bundles)).toEqual(refused('bundle-invalid'));
});

test('metadata signed by a key that is not delegated is refused', async () => {
  const bundle = await makeBundle(world, '1.0.0');
  must(await upload(world, bundle));
  const stranger = await signBundles(world, [bundle], newSigner());
  expect(await publishWith([bundle], stranger)).toEqual(refused('signature-invalid'));
});

test('one changed byte of signed metadata is refused', async () => {
  const bundle = await makeBundle(world, '1.0.0');
  must(await upload(world, bundle));
  const metadata = (await signBundles(world, [bundle])).replace('"length":', '"length":1');
  expect((await publishWith([bundle], metadata)).ok).toBe(false);
});

test('metadata that lists another manifest than was uploaded is refused', async () => {
  const bundle = await makeBundle(world, '1.0.0');
  const other = await makeBundle(world, '1.0.0', { content: 'other content' });
  must(await upload(world, bundle));
  expect(await publishWith([bundle], await signBundles(world, [other]))).toEqual(refused('signature-invalid'));
});

test('metadata that does not list the bundle is refused', async () => {
  const bundle = await makeBundle(world, '1.0.0');
  must(await upload(world, bundle));
  const other = await signBundles(world, [await makeBundle(world, '1.0.1')]);
  expect(await publishWith([bundle], other)).toEqual(refused('signature-invalid'));
});

test('metadata that lists more than was uploaded is refused', async () => {
  const [bundle, more] = [await makeBundle(world, '1.0.0'), await makeBundle(world, '1.0.1')];
  must(await upload(world, bundle));
  expect(await publishWith([bundle], await signBundles(world, [bundle, more]))).toEqual(refused('bundle-invalid'));
});

test('who signed before someone else published has to sign again, and then succeeds', async () => {
  const [first, second] = [await makeBundle(world, '1.0.0'), await makeBundle(world, '1.0.1')];
  must(await upload(world, second));
  const early = await signBundles(world, [second]);
  must(await publish(world, [first]));
  expect(await publishWith([second], early)).toEqual(refused('metadata-version-conflict'));
  expect(await publishWith([second], await signBundles(world, [second]))).toMatchObject({ ok: true });
});

test('a later version may not have a lower security counter, an earlier one may', async () => {
  must(await publish(world, [await makeBundle(world, '1.4.0', { securityCounter: 5 })]));
  const lower = await makeBundle(world, '1.10.0', { securityCounter: 4 });
  expect(await publish(world, [lower])).toEqual(refused('security-counter-too-low'));
  const earlier = await makeBundle(world, '1.3.1', { securityCounter: 4 });
  expect(await publish(world, [earlier])).toMatchObject({ ok: true });
  const elsewhere = await makeBundle(world, '1.10.0', { securityCounter: 0, compatible: 'gw3' });
  expect(await publish(world, [elsewhere])).toMatchObject({ ok: true });
});

test('a refused publication keeps nothing: neither objects nor records', async () => {
  const bundle = await makeBundle(world, '1.0.0');
  must(await upload(world, bundle));
  await publishWith([bundle], await signBundles(world, [bundle], newSigner()));
  const artifact = world.uploads.get(bundle.sha256)!.manifest.artifacts[0]!;
  expect(await world.objects.size(artifact.sha256)).toBeUndefined();
  expect(await world.store.getRelease(GATEWAY, '1.0.0')).toBeUndefined();
  expect(await kindsOf(world)).toEqual(['product-created']);
});

test('RSA keys sign as well as Ed25519 ones, and a product may have several', async () => {
  const rsa = must(signerFromPem(generatePrivateKey('rsa-3072')));
  const other = await openWorld();
  try {
    must(
      await createProduct(other, {
        name: GATEWAY,
        keys: [publicKeyPem(rsa.key), publicKeyPem(other.ci.key)],
        by: 'ada',
      }),
    );
    other.ci = rsa;
    expect(await publish(other, [await makeBundle(other, '1.0.0')])).toMatchObject({ ok: true });
  } finally {
    await other.close();
  }
});

test('without the targets key no product is made, nor recorded; one that is there already stays as it is', async () => {
  await rm(join(world.dir, 'keys', 'targets.pem'));
  const keyring = await openKeyring(join(world.dir, 'keys'));
  const repository = await openRepository({ dir: join(world.dir, 'tuf'), keyring, now: world.now });
  const create = (name: Id) =>
    createProduct({ ...world, repository }, { name, keys: [publicKeyPem(world.ci.key)], by: 'ada' });
  const sensors = Id.parse('sensors');
  expect(await create(sensors)).toMatchObject({ code: 'conflict', detail: expect.stringContaining('targets.pem') });
  expect(await world.store.getProduct(sensors)).toBeUndefined();
  expect(await kindsOf(world)).toEqual(['product-created']);
  expect(await create(GATEWAY)).toMatchObject({ ok: true });
});

test('a product whose name differs from another only in case is refused, since their files might be one', async () => {
  expect(await makeProduct(world)).toMatchObject({ ok: true });
  const keys = [publicKeyPem(newSigner().key)];
  const alike = await createProduct(world, { name: Id.parse('GateWay'), keys, by: 'ada' });
  expect(alike).toMatchObject({ code: 'already-exists', detail: expect.stringContaining(GATEWAY) });
  expect(await world.store.getProduct(Id.parse('GateWay'))).toBeUndefined();
});

test('a product is made once; with the same keys again it is the same, with others it is refused', async () => {
  expect(await makeProduct(world)).toMatchObject({ ok: true });
  const other = publicKeyPem(newSigner().key);
  expect(await createProduct(world, { name: GATEWAY, keys: [other], by: 'ada' })).toEqual(refused('already-exists'));
  const broken = await createProduct(world, { name: GATEWAY, keys: ['not a key at all, but long enough'], by: 'ada' });
  expect(broken).toEqual(refused('invalid-request'));
});

test('a product that holds a version with a number of any length goes on, and its security counter holds', async () => {
  const first = must(await publish(world, [await makeBundle(world, '1.0.0', { securityCounter: 7 })]));
  // As builds accepted it that did not look at the size of numbers.
  const version = '1.0.1796104056008365075';
  const made = await makeBundle(world, '1.0.1', { securityCounter: 7 });
  const path = manifestPath('gateway', version, 'gw2');
  const document = await signBundles(world, [{ ...made, path }]);
  const bundle = { ...first.bundles[0]!, version, path, manifestSha256: sha256Hex(made.manifestBytes) };
  await world.store.acceptBundles([bundle], { product: GATEWAY, version: 2, document }, []);
  expect(await publish(world, [await makeBundle(world, '1.1.0', { securityCounter: 6 })])).toEqual(
    refused('security-counter-too-low'),
  );
  must(await publish(world, [await makeBundle(world, '1.1.0', { securityCounter: 7 })]));
});
