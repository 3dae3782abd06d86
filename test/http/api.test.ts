import { createHash } from 'node:crypto';
import { request } from 'node:http';
import { zstdCompressSync } from 'node:zlib';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Channels } from '#server/domain/channel.ts';
import { createOperator } from '#server/flow/operators.ts';
import { apiRoutes } from '#server/http/api.ts';
import { buildApp } from '#server/http/app.ts';
import type { OperatorRole } from '#server/store/store.ts';
import { AUDIT_EXPORT_PATH, routes } from '#shared/api.ts';
import { Id } from '#shared/ids.ts';
import { Problem, refuse } from '#shared/problems.ts';
import type { Route } from '#shared/route.ts';
import { verifyAuditExport } from '#shared/trust/audit-export.ts';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { ChangeView, DeviceView, NoticedView, ReleaseView, RequirementsView, RolloutView } from '#shared/views.ts';
import { line, report, running } from '#test/store/records.ts';
import {
  type BundleFile,
  deploymentsOf,
  enrolFleet,
  filesOf,
  makeBundle,
  makeProduct,
  must,
  newSigner,
  openWorld,
  publish,
  releaseOf,
  report as reportOutcome,
  run,
  signBundles,
  type World,
} from '../flow/world.ts';

let world: World;
let app: FastifyInstance;
const tokens = new Map<OperatorRole, string>();

beforeEach(async () => {
  world = await openWorld();
  for (const role of ['admin', 'operator', 'ci', 'viewer'] as const) {
    const { token } = must(await createOperator(world, { name: `${role}-1`, role, by: 'server' }));
    tokens.set(role, token);
  }
  app = await buildApp({
    version: '0.0.1',
    findOperator: (sha256) => world.store.findOperator(sha256),
    verifyDevice: async () => refuse('unauthenticated', 'no devices here'),
  });
  apiRoutes(app, { ...world, version: '0.0.1', rootSha256: world.repository.rootSha256 });
  await app.ready();
});
afterEach(async () => {
  await app.close();
  await world.close();
});

// oxlint-disable-next-line typescript/no-explicit-any -- tests read answers as they come
type Call = { status: number; body: any; headers: Record<string, unknown> };
const call = async (
  role: OperatorRole | null,
  method: Route['method'],
  url: string,
  payload?: object,
  headers: Record<string, string> = {},
): Promise<Call> => {
  const answer = await app.inject({
    method,
    url: url.startsWith('/') ? url : `/api/v1/${url}`,
    headers: {
      ...(role === null ? {} : { authorization: `Bearer ${tokens.get(role)}` }),
      ...(Buffer.isBuffer(payload) ? { 'content-type': 'application/octet-stream' } : {}),
      ...headers,
    },
    ...(payload === undefined ? {} : { payload }),
  });
  const isJson = String(answer.headers['content-type']).includes('json;') || answer.statusCode >= 400;
  return { status: answer.statusCode, body: isJson ? answer.json() : answer.body, headers: answer.headers };
};
const problemOf = ({ status, body }: Call): [number, string] => {
  const problem = Problem.parse(body);
  expect(problem.detail).toBeTypeOf('string');
  return [status, problem.code];
};
const put = (bundle: BundleFile, role: OperatorRole = 'ci') =>
  call(role, 'PUT', `uploads/${bundle.sha256}`, bundle.bytes);

const EVERY_ROUTE: [string, Route][] = Object.entries(routes);
const pathOf = (route: Route): string =>
  route.path
    .replace(':sha256', '0'.repeat(64))
    .replace(':release', 'a@1.0.0')
    .replaceAll(/:[a-z]+/g, 'x');

/** The answer of each route to somebody. */
const answersOf = async (role: OperatorRole | null, wanted: [string, Route][]): Promise<[string, number, string][]> => {
  const answers: [string, number, string][] = [];
  for (const [name, route] of wanted) answers.push([name, ...problemOf(await call(role, route.method, pathOf(route)))]);
  return answers;
};

test('every route needs a token', async () => {
  const wanted = EVERY_ROUTE.map(([name]) => [name, 401, 'unauthenticated']);
  expect(await answersOf(null, EVERY_ROUTE)).toEqual(wanted);
});

test('viewers may only read', async () => {
  const others = EVERY_ROUTE.filter(([, route]) => !route.roles.includes('viewer'));
  expect(others.length).toBeGreaterThan(10);
  expect(await answersOf('viewer', others)).toEqual(others.map(([name]) => [name, 403, 'forbidden']));
});

test('products and operators are for administrators only', async () => {
  const names = ['productCreate', 'operatorCreate', 'operatorList', 'operatorRevoke'];
  const theirs = EVERY_ROUTE.filter(([name]) => names.includes(name));
  for (const role of ['operator', 'ci'] as const) {
    expect(await answersOf(role, theirs)).toEqual(theirs.map(([name]) => [name, 403, 'forbidden']));
  }
});

test('CI may publish and stage, but not start rollouts', async () => {
  expect(problemOf(await call('ci', 'POST', 'rollouts', {}))).toEqual([403, 'forbidden']);
  expect(problemOf(await call('ci', 'POST', 'releases/a@1.0.0/stage', { channel: 'production' }))).toEqual([
    404,
    'not-found',
  ]);
});

test('what does not exist is a 404', async () => {
  const paths = [
    'products/x/delegation',
    'releases/x@1.0.0',
    'releases/x@not-a-version',
    'devices/x',
    'devices/x/history',
    'cohorts/x',
    'rollouts/x',
    'rollouts/x/deployments',
  ];
  for (const path of paths)
    expect([path, ...problemOf(await call('viewer', 'GET', path))]).toEqual([path, 404, 'not-found']);
});

test('the OpenAPI document is of version 3.1, and has every route with its summary, security and error answers', async () => {
  const { body } = await call(null, 'GET', '/openapi.json');
  expect(body.openapi).toBe('3.1.0');
  for (const [name, route] of EVERY_ROUTE) {
    const path = route.path.replaceAll(/:([a-z0-9]+)/g, '{$1}');
    const operation = body.paths[path]?.[route.method.toLowerCase()];
    expect(operation).toMatchObject({ summary: route.summary, operationId: name, security: [{ operator: [] }] });
    expect(Object.keys(operation.responses)).toEqual(expect.arrayContaining(['400', '401', '403', '500']));
    expect(operation.responses['401'].content['application/problem+json'].schema).toBeDefined();
    const inPath = (operation.parameters ?? []).filter((parameter: { in: string }) => parameter.in === 'path');
    expect(inPath).toHaveLength(path.split('{').length - 1);
  }
  expect(body.paths[AUDIT_EXPORT_PATH].get.operationId).toBe('auditExport');
  expect(body.paths['/api/v1/uploads/{sha256}'].put.requestBody.content).toHaveProperty('application/octet-stream');
  // What `/docs` shows to be copied, instead of letters thrown together to fit a pattern.
  const { properties } = body.paths['/api/v1/rollouts'].post.requestBody.content['application/json'].schema;
  expect(properties).toMatchObject({ release: { examples: ['gateway@1.4.0'] }, channel: { examples: ['production'] } });
  const text = JSON.stringify(body);
  for (const [, ref] of text.matchAll(/"\$ref":"#\/([^"]+)"/g)) {
    expect({ ref, to: ref!.split('/').reduce((node, key) => node?.[key], body) }).toEqual({
      ref,
      to: expect.anything(),
    });
  }
  const used = new Set(EVERY_ROUTE.flatMap(([, route]) => route.tags));
  expect(body.tags.map((tag: { name: string }) => tag.name)).toEqual(expect.arrayContaining([...used]));
});

test('from product to rollout over HTTP', async () => {
  await enrolFleet(world, 2);
  const keys = [publicKeyPem(world.ci.key)];
  const product = await call('admin', 'POST', 'products', { name: 'gateway', keys });
  expect([product.status, product.body.role, product.body.keys[0].keyId]).toEqual([201, 'ci-gateway', world.ci.keyId]);
  const bundle = await makeBundle(world, '1.0.0');
  expect((await put(bundle)).status).toBe(201);
  const published = await call('ci', 'POST', 'releases', {
    uploads: [bundle.sha256],
    metadata: await signBundles(world, [bundle]),
  });
  expect([published.status, ReleaseView.parse(published.body).progress]).toEqual([201, { state: 'accepted' }]);
  const delegation = await call('ci', 'GET', 'products/gateway/delegation');
  expect(delegation.body).toMatchObject({ role: 'ci-gateway', version: 1, keys: [world.ci.keyId] });
  const staged = await call('ci', 'POST', 'releases/gateway@1.0.0/stage', { channel: 'production' });
  expect(staged.body.progress).toEqual({ state: 'staged', channels: ['production'] });
  const body = { release: 'gateway@1.0.0', cohorts: [{ cohort: 'fleet', waves: [{ count: 1 }, { percent: 100 }] }] };
  const started = await call('operator', 'POST', 'rollouts', body);
  expect(started.status).toBe(201);
  const rollout = RolloutView.parse(started.body);
  expect(rollout).toMatchObject({ state: 'running', wave: 0, devices: 2, excluded: 0, untouched: 1 });
  expect(rollout.counts).toMatchObject({ offered: 1, planned: 1, committed: 0 });
  expect(rollout.explanation).toMatch(/^In wave 1 of 2: /);
  const deployments = await call('viewer', 'GET', `rollouts/${rollout.id}/deployments?state=offered`);
  expect(deployments.body.items).toMatchObject([{ state: 'offered', rollout: rollout.id }]);
  const paused = await call('operator', 'POST', `rollouts/${rollout.id}/pause`);
  expect(paused.body).toMatchObject({ state: 'paused', explanation: expect.stringContaining('operator-1 paused it') });
  expect(problemOf(await call('operator', 'POST', `rollouts/${rollout.id}/pause`))).toEqual([409, 'conflict']);
  const withdrawn = await call('operator', 'POST', 'releases/gateway@1.0.0/withdraw', { reason: 'it leaks' });
  expect(withdrawn.body.progress).toMatchObject({ state: 'withdrawn', by: 'operator-1', reason: 'it leaks' });
  expect((await call('viewer', 'GET', `rollouts/${rollout.id}`)).body.state).toBe('halted');
  const aborted = await call('operator', 'POST', `rollouts/${rollout.id}/abort`, { note: 'enough' });
  expect(aborted.body).toMatchObject({ state: 'aborted', untouched: 2 });
});

test('a release goes to the next channel when checks and people have said yes', async () => {
  const requires = { checks: ['e2e'], approvals: 1 };
  world.channels.splice(0, 9, ...Channels.parse(['staging', { name: 'production', requires }]));
  must(await makeProduct(world));
  must(await publish(world, [await makeBundle(world, '1.0.0')]));
  const at = 'releases/gateway@1.0.0';
  expect((await call('ci', 'POST', `${at}/stage`, { channel: 'staging' })).status).toBe(200);
  const refused = await call('ci', 'POST', `${at}/promote`, { to: 'production' });
  expect([...problemOf(refused), refused.body.detail]).toEqual([
    409,
    'requirements-unmet',
    'gateway@1.0.0 may not go to production yet: check e2e has not been reported; approvals: 0 of 1 given, from others than ci, ci-1',
  ]);
  const link = 'https://ci.example.com/812';
  expect((await call('ci', 'PUT', `${at}/checks/e2e`, { outcome: 'pass', link })).status).toBe(200);
  expect(problemOf(await call('ci', 'PUT', `${at}/checks/e2e`, { outcome: 'maybe' }))).toEqual([
    400,
    'invalid-request',
  ]);
  expect(problemOf(await call('ci', 'POST', `${at}/approve`, { channel: 'production' }))).toEqual([403, 'forbidden']);
  const approved = await call('operator', 'POST', `${at}/approve`, { channel: 'production', note: 'read it' });
  const view = RequirementsView.parse(approved.body);
  expect(view.channels).toMatchObject([
    { channel: 'staging', staged: true, met: true, requirements: [] },
    { channel: 'production', staged: false, met: true },
  ]);
  expect(view.channels[1]?.requirements).toContainEqual(expect.objectContaining({ kind: 'check', check: 'e2e' }));
  expect(view.checks).toMatchObject([{ check: 'e2e', outcome: 'pass', link, by: 'ci-1' }]);
  expect(view.approvals).toMatchObject([{ channel: 'production', by: 'operator-1', note: 'read it' }]);
  expect((await call('viewer', 'GET', `${at}/requirements`)).body).toEqual(approved.body);
  expect(problemOf(await call('operator', 'POST', `${at}/promote`, { to: 'production' }))).toEqual([
    409,
    'requirements-unmet',
  ]);
  const promoted = await call('ci', 'POST', `${at}/promote`, { to: 'production' });
  expect(promoted.body.progress).toEqual({ state: 'staged', channels: ['staging', 'production'] });
  expect(problemOf(await call('viewer', 'GET', 'releases/gateway@9.9.9/requirements'))).toEqual([404, 'not-found']);
});

test('a rollout in a channel that says so starts when somebody else has approved it', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  world.channels.splice(0, 9, ...Channels.parse([{ name: 'production', rolloutApprovals: 1 }]));
  const body = { release: 'gateway@1.0.0', cohorts: [{ cohort: 'fleet' }] };
  const rollout = RolloutView.parse((await call('operator', 'POST', 'rollouts', body)).body);
  expect(rollout).toMatchObject({
    state: 'awaiting-approval',
    approval: { needed: 1, approvedBy: [] },
    explanation: 'Waits for approval: 0 of 1 given.',
  });
  const approve = (role: OperatorRole) => call(role, 'POST', `rollouts/${rollout.id}/approve`, { note: 'fine' });
  expect(problemOf(await approve('operator'))).toEqual([403, 'forbidden']);
  expect(problemOf(await approve('ci'))).toEqual([403, 'forbidden']);
  expect((await approve('admin')).body).toMatchObject({ state: 'running', approval: null });
  expect(problemOf(await approve('admin'))).toEqual([409, 'conflict']);
  const nightly = { ...body, channel: 'nightly' };
  expect(problemOf(await call('operator', 'POST', 'rollouts', nightly))).toEqual([400, 'invalid-request']);
});

test('a change is followed from its releases to the devices, and two releases are compared', async () => {
  must(await makeProduct(world));
  const [older, newer] = [
    await makeBundle(world, '1.0.0', { changes: ['GW-1', 'fix/a b'] }),
    await makeBundle(world, '1.1.0', { changes: ['GW-1', 'GW-2'] }),
  ];
  for (const bundle of [older, newer]) must(await publish(world, [bundle]));
  await call('ci', 'POST', 'releases/gateway@1.1.0/stage', { channel: 'staging' });
  const [device] = await enrolFleet(world, 4);
  const manifest = (await world.store.getRelease(Id.parse('gateway'), '1.1.0'))!.bundles[0]!.manifestSha256;
  const { publicKey } = (await world.store.getDevice(device!))!;
  await world.store.saveReports([report(device!, 1, { publicKey, running: running(manifest) })]);

  const found = await call('viewer', 'GET', 'changes/GW-1');
  expect(ChangeView.parse(found.body)).toEqual({
    change: 'GW-1',
    releases: [
      {
        release: 'gateway@1.1.0',
        state: 'staged',
        channels: ['staging'],
        bundles: [{ compatible: 'gw2', devices: 1 }],
      },
      { release: 'gateway@1.0.0', state: 'accepted', channels: [], bundles: [{ compatible: 'gw2', devices: 0 }] },
    ],
    running: 1,
    fleet: 4,
    share: 0.25,
  });
  expect((await call('viewer', 'GET', 'changes/GW-1/devices')).body).toEqual({
    items: [{ device: 'gw-1', release: 'gateway@1.1.0', compatible: 'gw2', online: true }],
    next: null,
  });
  expect((await call('viewer', 'GET', `changes/${encodeURIComponent('fix/a b')}`)).body).toMatchObject({ running: 0 });
  expect(problemOf(await call('viewer', 'GET', 'changes/GW-9'))).toEqual([404, 'not-found']);
  const diff = await call('viewer', 'GET', 'releases/gateway@1.0.0/diff/gateway@1.1.0');
  expect(diff.body).toEqual({
    from: 'gateway@1.0.0',
    to: 'gateway@1.1.0',
    added: [{ change: 'GW-2', compatibles: ['gw2'] }],
    removed: [{ change: 'fix/a b', compatibles: ['gw2'] }],
  });
  expect(problemOf(await call('viewer', 'GET', 'releases/gateway@1.0.0/diff/gateway@9.9.9'))).toEqual([
    404,
    'not-found',
  ]);
  expect(problemOf(await call('viewer', 'GET', 'releases/gateway@1.0.0/diff/other@1.0.0'))).toEqual([
    400,
    'invalid-request',
  ]);
});

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
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }));
  const sending = request({
    port,
    method: 'PUT',
    path: `/api/v1/uploads/${bundle.sha256}`,
    headers: {
      authorization: `Bearer ${tokens.get('ci')}`,
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
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }));
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

test('what can not be published says why', async () => {
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
const publishOther = async (): Promise<Call> => {
  const other = await makeBundle(world, '1.0.0', { content: 'other' });
  await put(other);
  const bundles = [await makeBundle(world, '1.0.1')];
  return call('ci', 'POST', 'releases', { uploads: [other.sha256], metadata: await signBundles(world, bundles) });
};

test('lists are pages', async () => {
  must(await makeProduct(world));
  for (const version of ['1.0.0', '1.0.1', '1.0.2']) must(await publish(world, [await makeBundle(world, version)]));
  const first = await call('viewer', 'GET', 'releases?limit=2');
  expect(first.body.items.map((item: ReleaseView) => item.version)).toEqual(['1.0.2', '1.0.1']);
  const second = await call('viewer', 'GET', `releases?limit=2&after=${first.body.next}`);
  expect(second.body.items.map((item: ReleaseView) => item.version)).toEqual(['1.0.0']);
  expect(second.body.next).toBeNull();
  expect(problemOf(await call('viewer', 'GET', 'releases?limit=0'))).toEqual([400, 'invalid-request']);
});

test('devices are listed by selector, let in, tagged and shut out', async () => {
  await enrolFleet(world, 3);
  const device = Id.parse('new-1');
  await world.store.enrolDevice(
    { id: device, publicKey: '0'.repeat(64), compatible: Id.parse('gw3'), attributes: { model: 'x' }, enrolledAt: 1 },
    null,
    1,
    line('device-enrolled', { device }),
  );
  expect((await call('viewer', 'GET', 'devices?state=pending')).body.items).toHaveLength(1);
  expect((await call('operator', 'POST', 'devices/new-1/accept')).body.state).toBe('accepted');
  const tagged = await call('operator', 'PATCH', 'devices/new-1/tags', { tags: { site: 'lyon', floor: '2' } });
  expect(DeviceView.parse(tagged.body).tags).toEqual({ site: 'lyon', floor: '2' });
  const untagged = await call('operator', 'PATCH', 'devices/new-1/tags', { tags: { floor: '' } });
  expect(untagged.body.tags).toEqual({ site: 'lyon' });
  const query = encodeURIComponent('site=lyon and model=x');
  const found = await call('viewer', 'GET', `devices?selector=${query}`);
  expect(found.body.items.map((item: DeviceView) => item.id)).toEqual(['new-1']);
  expect(problemOf(await call('viewer', 'GET', 'devices?selector=site%3D'))).toEqual([422, 'selector-invalid']);
  expect((await call('operator', 'POST', 'devices/new-1/reject')).body.state).toBe('rejected');
  expect(world.link.disconnected).toEqual(['new-1']);
  expect(problemOf(await call('operator', 'POST', 'devices/nobody/accept'))).toEqual([404, 'not-found']);
  const history = await call('viewer', 'GET', 'devices/new-1/history?limit=2');
  expect(history.body.entries.map((entry: { kind: string }) => entry.kind)).toEqual([
    'device-rejected',
    'device-tagged',
  ]);
  const older = await call('viewer', 'GET', `devices/new-1/history?after=${history.body.next}`);
  expect(older.body.next).toBeNull();
  expect(problemOf(await call('viewer', 'GET', 'devices/new-1/history?after=x'))).toEqual([400, 'invalid-request']);
});

test('enrolment tokens carry the digest of the trust root, and only their digests are kept', async () => {
  const made = await call('operator', 'POST', 'enrolment-tokens', { count: 2, tags: { site: 'lyon' } });
  expect(made.status).toBe(201);
  expect(new Set(made.body.tokens).size).toBe(2);
  const root = Buffer.from(world.repository.rootSha256, 'hex').toString('base64url');
  for (const token of made.body.tokens) expect(token).toMatch(new RegExp(`^sle_[A-Za-z0-9_-]{43}_${root}$`));
  const log = (await world.store.readAudit(-1, 100)).map(({ payload }) => payload).join();
  for (const token of made.body.tokens) expect(log).not.toContain(token);
  const many = await call('operator', 'POST', 'enrolment-tokens', { count: 2, device: 'gw-1' });
  expect(problemOf(many)).toEqual([400, 'invalid-request']);
});

test('cohorts say how many devices they mean now, and do not change', async () => {
  await enrolFleet(world, 3);
  const made = await call('operator', 'POST', 'cohorts', { name: 'first-two', selector: 'id in (gw-1, gw-2)' });
  expect([made.status, made.body.devices]).toEqual([201, 2]);
  expect(problemOf(await call('operator', 'POST', 'cohorts', { name: 'first-two', devices: ['a'] }))).toEqual([
    409,
    'already-exists',
  ]);
  expect(problemOf(await call('operator', 'POST', 'cohorts', { name: 'bad', selector: 'site=' }))).toEqual([
    422,
    'selector-invalid',
  ]);
  expect(problemOf(await call('operator', 'POST', 'cohorts', { name: 'bad' }))).toEqual([400, 'invalid-request']);
  const list = await call('viewer', 'GET', 'cohorts');
  expect(list.body.items.map((item: { name: string; devices: number }) => [item.name, item.devices])).toEqual([
    ['first-two', 2],
    ['fleet', 3],
  ]);
});

test('operators are made, listed without their tokens, and revoked; the last administrator stays', async () => {
  const made = await call('admin', 'POST', 'operators', { name: 'eve', role: 'viewer' });
  expect([made.status, made.body.token]).toEqual([201, expect.stringMatching(/^slo_[A-Za-z0-9_-]{43}$/)]);
  tokens.set('viewer', made.body.token);
  expect((await call('viewer', 'GET', 'whoami')).body).toEqual({ name: 'eve', role: 'viewer', server: '0.0.1' });
  expect(problemOf(await call('admin', 'POST', 'operators', { name: 'eve', role: 'admin' }))).toEqual([
    409,
    'already-exists',
  ]);
  const list = await call('admin', 'GET', 'operators');
  expect(list.body.items).toHaveLength(5);
  expect(JSON.stringify(list.body)).not.toMatch(/slo_|tokenSha256/);
  expect((await call('admin', 'DELETE', 'operators/eve')).status).toBe(200);
  expect(problemOf(await call('viewer', 'GET', 'whoami'))).toEqual([401, 'unauthenticated']);
  expect(problemOf(await call('admin', 'DELETE', 'operators/eve'))).toEqual([404, 'not-found']);
  expect(problemOf(await call('admin', 'DELETE', 'operators/admin-1'))).toEqual([409, 'conflict']);
});

test('after a halt, what each device did is listed, and failures are acknowledged by name', async () => {
  await releaseOf(world, '1.0.0');
  await enrolFleet(world, 2);
  const policy = { judge: { rule: 'wave-percentage', percent: 10 }, gate: { successShare: 0 } };
  const body = { release: 'gateway@1.0.0', cohorts: [{ cohort: 'fleet' }], policy };
  const rollout = RolloutView.parse((await call('operator', 'POST', 'rollouts', body)).body);
  const [first] = await deploymentsOf(world, rollout.id);
  await reportOutcome(world, first!, { outcome: 'reverted' });
  await run(world, rollout.id);
  const listed = await call('viewer', 'GET', `rollouts/${rollout.id}/deployments`);
  expect(listed.body.items).toMatchObject([
    { did: 'reverted', attempts: null },
    { state: 'withdrawn', did: 'nothing' },
  ]);
  const resume = (acknowledgeFailures: unknown, note = 'it stood in water') =>
    call('operator', 'POST', `rollouts/${rollout.id}/resume`, { note, acknowledgeFailures });
  expect(problemOf(await resume(['gw-99']))).toEqual([400, 'invalid-request']);
  expect(problemOf(await resume([first!.device], ''))).toEqual([400, 'invalid-request']);
  expect((await resume([first!.device])).body.state).not.toBe('halted');
});

test('a rollout that was aborted is recalled: it names what takes its devices back, and who stays', async () => {
  await releaseOf(world, '1.0.0');
  await releaseOf(world, '1.1.0');
  await enrolFleet(world, 2);
  const cohorts = [{ cohort: 'fleet', waves: [{ percent: 100 }] }];
  const begun = await call('operator', 'POST', 'rollouts', { release: 'gateway@1.1.0', cohorts });
  const { id } = RolloutView.parse(begun.body);
  const at = `rollouts/${id}/recall`;
  expect(problemOf(await call('operator', 'POST', at, {}))).toEqual([409, 'conflict']);
  for (const deployment of await deploymentsOf(world, Id.parse(id)))
    await reportOutcome(world, deployment, { outcome: 'committed' });
  await call('operator', 'POST', `rollouts/${id}/abort`, {});
  const recalled = RolloutView.parse((await call('operator', 'POST', at, { note: 'GW-31' })).body);
  expect(recalled).toMatchObject({
    state: 'aborted',
    recall: { by: 'operator-1', note: 'GW-31', to: null, rollouts: [], stays: [{ reason: 'ran-nothing', devices: 2 }] },
    explanation: expect.stringContaining('Recalled by operator-1: nobody goes back. 2 can not go back'),
  });
  expect(problemOf(await call('operator', 'POST', at, { to: '7.0.0' }))).toEqual([404, 'not-found']);
  const named = NoticedView.parse((await call('operator', 'POST', at, { to: '1.0.0' })).body);
  expect(named.recall).toMatchObject({
    to: 'gateway@1.0.0',
    rollouts: [{ id: `${id}-r1`, release: 'gateway@1.0.0', devices: 2 }],
  });
  expect(named.notices).toEqual([]);
  const again = NoticedView.parse((await call('operator', 'POST', at, { to: '1.0.0' })).body);
  expect(again.notices).toEqual([expect.stringMatching(/^Nobody is left to recall: /)]);
  const back = RolloutView.parse((await call('viewer', 'GET', `rollouts/${id}-r1`)).body);
  expect(back).toMatchObject({
    recalls: id,
    recall: null,
    explanation: expect.stringContaining(`takes devices of ${id} back`),
  });
});

test('a rollout of what is not there or not staged is refused', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const cohorts = [{ cohort: 'fleet' }];
  expect(problemOf(await call('operator', 'POST', 'rollouts', { release: 'gateway@9.9.9', cohorts }))).toEqual([
    404,
    'not-found',
  ]);
  const elsewhere = { release: 'gateway@1.0.0', channel: 'staging', cohorts };
  expect(problemOf(await call('operator', 'POST', 'rollouts', elsewhere))).toEqual([409, 'conflict']);
  const wrong = await call('operator', 'POST', 'rollouts', {
    release: 'x',
    cohorts: [],
    policy: { judge: { rule: 'no' } },
  });
  expect(problemOf(wrong)).toEqual([400, 'invalid-request']);
  expect(wrong.body.issues.map((issue: { path: string }) => issue.path)).toEqual([
    'body.release',
    'body.cohorts',
    'body.policy.judge.rule',
  ]);
});

test('the audit log reads as sentences, and its export verifies offline', async () => {
  await enrolFleet(world, 2);
  await releaseOf(world, '1.0.0');
  const list = await call('viewer', 'GET', 'audit?limit=3');
  expect(list.body.items[0]).toMatchObject({
    index: 0,
    by: 'server',
    kind: 'operator-created',
    sentence: 'server created operator admin-1 with the role admin.',
  });
  expect(list.body.next).toBe('2');
  const exported = await call('viewer', 'GET', AUDIT_EXPORT_PATH);
  expect(exported.headers['content-type']).toBe('application/x-ndjson');
  const lines = String(exported.body).trimEnd().split('\n');
  const verify = (text: string[]) =>
    verifyAuditExport(
      (async function* () {
        yield* text;
      })(),
      { rootSha256: world.repository.rootSha256 },
    );
  expect(await verify(lines)).toMatchObject({ ok: true, entries: lines.length - 2 });
  expect(await verify(lines.toSpliced(3, 1))).toMatchObject({ ok: false });
});
