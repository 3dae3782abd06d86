/** Bundles on their way to the server, and what keeps them from being published. */
import { createHash } from 'node:crypto';
import { request } from 'node:http';
import { zstdCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import {
  type BundleFile,
  filesOf,
  makeBundle,
  makeProduct,
  must,
  newSigner,
  signBundles,
  type World,
} from '../flow/world.ts';
import { type Answer, type Api, problemOf, withApi } from './rig.ts';

let api: Api;
let world: World;
const call = withApi((opened) => {
  api = opened;
  ({ world } = opened);
});

const put = (bundle: BundleFile): Promise<Answer> => call('ci', 'PUT', `uploads/${bundle.sha256}`, bundle.bytes);

test('an upload that is refused leaves nothing, and says what is wrong', async () => {
  const bundle = await makeBundle(world, '1.0.0');
  const wrong = createHash('sha256').update('other').digest('hex');
  expect(problemOf(await call('ci', 'PUT', `uploads/${wrong}`, bundle.bytes))).toEqual([422, 'digest-mismatch']);
  const torn = bundle.bytes.subarray(0, 1200);
  const sum = createHash('sha256').update(torn).digest('hex');
  expect(problemOf(await call('ci', 'PUT', `uploads/${sum}`, torn))).toEqual([422, 'bundle-invalid']);
  expect(problemOf(await call('ci', 'PUT', 'uploads/nonsense', bundle.bytes))).toEqual([400, 'invalid-request']);
  expect(problemOf(await call('ci', 'PUT', `uploads/${bundle.sha256}`, { not: 'a bundle' }))).toEqual([
    400,
    'invalid-request',
  ]);
  expect(await filesOf(world)).toEqual([]);
});

test('an upload may come compressed: its digest is that of the bundle', async () => {
  const bundle = await makeBundle(world, '1.0.0', { content: 'much the same '.repeat(20_000) });
  const sent = zstdCompressSync(bundle.bytes);
  expect(sent.length).toBeLessThan(bundle.bytes.length / 10);
  const answer = await call('ci', 'PUT', `uploads/${bundle.sha256}`, sent, { 'content-encoding': 'zstd' });
  expect(answer).toMatchObject({ status: 201, body: { upload: bundle.sha256, bytes: bundle.bytes.length } });
});

test('a compressed upload that is damaged, cut, endless or compressed otherwise is refused, and leaves nothing', async () => {
  const bundle = await makeBundle(world, '1.0.0', { content: 'much the same '.repeat(20_000) });
  const sent = zstdCompressSync(bundle.bytes);
  const damaged = Buffer.from(sent);
  damaged[damaged.length >> 1]! ^= 1;
  const bomb = zstdCompressSync(Buffer.concat([bundle.bytes, Buffer.alloc(64 * 1024 ** 2)]));
  const send = async (body: Buffer, encoding = 'zstd') => {
    const answer = await call('ci', 'PUT', `uploads/${bundle.sha256}`, body, { 'content-encoding': encoding });
    return problemOf(answer);
  };
  expect((await send(damaged))[0]).toBeOneOf([400, 422]);
  expect((await send(sent.subarray(0, -20)))[0]).toBeOneOf([400, 422]);
  expect(await send(bomb)).toEqual([422, 'bundle-invalid']);
  expect(await send(bundle.bytes.subarray(0, 5_000))).toEqual([400, 'invalid-request']);
  expect(await send(bundle.bytes.subarray(0, 5_000), 'gzip')).toEqual([400, 'invalid-request']);
  expect(await filesOf(world)).toEqual([]);
});

test('a connection that breaks in the middle of an upload leaves nothing', async () => {
  const bundle = await makeBundle(world, '1.0.0', { content: 'x'.repeat(300_000) });
  const { port } = new URL(await api.app.listen({ port: 0, host: '127.0.0.1' }));
  const sending = request({
    port,
    method: 'PUT',
    path: `/api/v1/uploads/${bundle.sha256}`,
    headers: {
      authorization: `Bearer ${api.tokens.ci}`,
      'content-type': 'application/octet-stream',
      'content-length': bundle.bytes.length,
    },
  });
  const broken = new Promise((resolve) => sending.on('error', resolve));
  sending.write(bundle.bytes.subarray(0, 200_000));
  await expect.poll(() => filesOf(world)).toHaveLength(1);
  sending.destroy();
  await broken;
  await expect.poll(() => filesOf(world)).toEqual([]);
});

test('a large upload that may not be made is answered, not swallowed', async () => {
  const { port } = new URL(await api.app.listen({ port: 0, host: '127.0.0.1' }));
  const answer = await new Promise<[number | undefined, string | undefined]>((resolve, reject) => {
    const sending = request({
      port,
      method: 'PUT',
      path: `/api/v1/uploads/${'0'.repeat(64)}`,
      headers: { 'content-type': 'application/octet-stream', 'content-length': 4_000_000_000 },
    });
    sending.on('response', (response) => {
      resolve([response.statusCode, response.headers.connection]);
      sending.destroy();
    });
    sending.on('error', reject);
    sending.write(Buffer.alloc(100_000));
  });
  expect(answer).toEqual([401, 'close']);
});

test('what cannot be published says why', async () => {
  must(await makeProduct(world));
  const bundle = await makeBundle(world, '1.0.0');
  const body = async (signer = world.ci) => ({
    uploads: [bundle.sha256],
    metadata: await signBundles(world, [bundle], signer),
  });
  expect(problemOf(await call('ci', 'POST', 'releases', await body()))).toEqual([404, 'not-found']);
  await put(bundle);
  expect(problemOf(await call('ci', 'POST', 'releases', await body(newSigner())))).toEqual([422, 'signature-invalid']);
  expect((await call('ci', 'POST', 'releases', await body())).status).toBe(201);
  expect(problemOf(await publishOther())).toEqual([409, 'version-taken']);
  const release = await call('viewer', 'GET', 'releases/gateway@1.0.0');
  expect(release.body.bundles).toHaveLength(1);
});
const publishOther = async (): Promise<Answer> => {
  const other = await makeBundle(world, '1.0.0', { content: 'other' });
  await put(other);
  const bundles = [await makeBundle(world, '1.0.1')];
  return call('ci', 'POST', 'releases', { uploads: [other.sha256], metadata: await signBundles(world, bundles) });
};
