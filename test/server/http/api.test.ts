/** The operators' API: who may ask for what, its document, lists, operators and the audit log. */
import { expect, test } from 'vitest';
import type { OperatorRole } from '#server/store/operators.ts';
import { AUDIT_EXPORT_PATH, routes } from '#shared/api.ts';
import type { Route } from '#shared/route.ts';
import { verifyAuditExport } from '#shared/trust/audit-export.ts';
import { ReleaseView } from '#shared/views.ts';
import { enrolFleet, makeBundle, makeProduct, must, publish, releaseOf, type World } from '../flow/world.ts';
import { problemOf, withApi } from './rig.ts';

let world: World;
const call = withApi((api) => {
  ({ world } = api);
});

const EVERY_ROUTE: [string, Route][] = Object.entries(routes);
const pathOf = (route: Route): string =>
  route.path
    .replace(':sha256', '0'.repeat(64))
    .replace(':release', 'a@1.0.0')
    .replaceAll(/:[a-z]+/g, 'x');

/** The answer of each route to someone. */
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

test('operators are made, listed without their tokens, and revoked; the last administrator stays', async () => {
  const made = await call('admin', 'POST', 'operators', { name: 'eve', role: 'viewer' });
  expect([made.status, made.body.token]).toEqual([201, expect.stringMatching(/^slo_[A-Za-z0-9_-]{43}$/)]);
  const whoami = () => call(null, 'GET', 'whoami', undefined, { authorization: `Bearer ${made.body.token}` });
  expect((await whoami()).body).toEqual({ name: 'eve', role: 'viewer', server: '0.0.1' });
  expect(problemOf(await call('admin', 'POST', 'operators', { name: 'eve', role: 'admin' }))).toEqual([
    409,
    'already-exists',
  ]);
  const list = await call('admin', 'GET', 'operators');
  expect(list.body.items).toHaveLength(5);
  expect(JSON.stringify(list.body)).not.toMatch(/slo_|tokenSha256/);
  expect((await call('admin', 'DELETE', 'operators/eve')).status).toBe(200);
  expect(problemOf(await whoami())).toEqual([401, 'unauthenticated']);
  expect(problemOf(await call('admin', 'DELETE', 'operators/eve'))).toEqual([404, 'not-found']);
  expect(problemOf(await call('admin', 'DELETE', 'operators/admin-1'))).toEqual([409, 'conflict']);
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
