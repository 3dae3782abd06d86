import { connect } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { type Logger, pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { z } from 'zod';
import { buildApp, handle } from '#server/http/app.ts';
import { tokenDigest } from '#server/http/authenticate.ts';
import type { OperatorRecord, OperatorRole } from '#server/store/operators.ts';
import { Id, type Sha256 } from '#shared/ids.ts';
import { accept, Problem, refuse } from '#shared/problems.ts';
import { type Role, route } from '#shared/route.ts';

const apps: FastifyInstance[] = [];
afterEach(async () => {
  for (const app of apps.splice(0)) await app.close();
});

const operators = new Map<Sha256, OperatorRecord>();
const operator = (name: string, role: OperatorRole, revokedAt: number | null = null): Record<string, string> => {
  const tokenSha256 = tokenDigest(`token-of-${name}`);
  operators.set(tokenSha256, { name, role, tokenSha256, createdAt: 0, revokedAt });
  return { authorization: `Bearer token-of-${name}` };
};
const ADA = operator('ada', 'admin');
const OLE = operator('ole', 'operator');
const VERA = operator('vera', 'viewer');
const GONE = operator('gone', 'admin', 5);
const DEVICE = { authorization: 'Device login-of-gw-01' };

const app = async (
  register: (app: FastifyInstance) => void,
  logger?: Logger,
  trustProxy?: string[],
): Promise<FastifyInstance> => {
  const made = await buildApp({
    version: '9.8.7',
    ...(logger === undefined ? {} : { logger }),
    trustProxy,
    findOperator: async (tokenSha256) => operators.get(tokenSha256),
    verifyDevice: async (login) =>
      login === 'login-of-gw-01' ? accept(Id.parse('gw-01')) : refuse('unauthenticated', 'no'),
  });
  apps.push(made);
  register(made);
  await made.ready();
  return made;
};

const guarded = (roles: readonly Role[]) =>
  route({
    method: 'GET',
    path: '/guarded',
    roles,
    tags: [],
    summary: 'A route for tests',
    answer: z.object({ who: z.string() }),
  });
const echo = route({
  method: 'POST',
  path: '/echo/:id',
  roles: ['public'],
  tags: [],
  summary: 'A route for tests',
  params: z.object({ id: Id }),
  query: z.object({ times: z.coerce.number().int().max(3).default(1) }),
  body: z.strictObject({ word: z.string().max(5), loud: z.boolean().default(false) }),
  answer: z.object({ said: z.string() }),
  success: 201,
});
const echoing = (made: FastifyInstance): void =>
  handle(made, echo, async ({ body, query }) =>
    accept({ said: (body.loud ? '!' : '') + body.word.repeat(query.times) }),
  );

const call = async (roles: readonly Role[], headers: Record<string, string>) => {
  const made = await app((open) =>
    handle(open, guarded(roles), async ({ who }) => accept({ who: JSON.stringify(who) })),
  );
  const answer = await made.inject({ url: '/guarded', headers });
  return { status: answer.statusCode, body: answer.json(), headers: answer.headers };
};

test('without credentials the answer is a 401 that says how to authenticate', async () => {
  const { status, body, headers } = await call(['viewer'], {});
  expect(status).toBe(401);
  expect(Problem.parse(body).code).toBe('unauthenticated');
  expect(headers['www-authenticate']).toContain('Bearer');
  expect(headers['content-type']).toBe('application/problem+json');
});

test.each([
  ['an unknown token', { authorization: 'Bearer token-of-nobody' }],
  ['a revoked token', GONE],
  ['an unknown device login', { authorization: 'Device someone' }],
  ['a scheme that is not ours', { authorization: 'Basic YWRhOmFkYQ==' }],
  ['an empty bearer', { authorization: 'Bearer ' }],
])('%s is a 401', async (_what, headers) => {
  expect((await call(['viewer', 'device'], headers)).status).toBe(401);
});

test.each([
  ['a viewer where operators are needed', ['operator'], VERA],
  ['an operator where administrators are needed', ['admin'], OLE],
  ['a device where operators are needed', ['admin', 'operator', 'ci', 'viewer'], DEVICE],
  ['an administrator where only devices may', ['device'], ADA],
  ['anyone where no one may', [], ADA],
] as const)('%s is a 403', async (_what, roles, headers) => {
  const { status, body } = await call(roles, headers);
  expect(status).toBe(403);
  expect(Problem.parse(body).code).toBe('forbidden');
});

test('an administrator may call what operators may, and handlers learn who calls', async () => {
  expect((await call(['operator'], ADA)).body.who).toBe('{"kind":"operator","name":"ada","role":"admin"}');
  expect((await call(['viewer'], VERA)).status).toBe(200);
  expect((await call(['device'], DEVICE)).body.who).toBe('{"kind":"device","device":"gw-01"}');
});

test('a route that does not say who may call it cannot be registered', async () => {
  await expect(app((made) => void made.get('/open', () => 'hello'))).rejects.toThrow('/open says not who may call it');
});

test('everything that is wrong with a request is said at once, wherever it is', async () => {
  const made = await app(echoing);
  const answer = await made.inject({
    method: 'POST',
    url: '/echo/no%20id?times=9',
    payload: { word: 'much too long', loud: 3, extra: true },
  });
  expect(answer.statusCode).toBe(400);
  const problem = Problem.parse(answer.json());
  expect(problem.code).toBe('invalid-request');
  expect(problem.issues?.map((issue) => issue.path)).toEqual([
    'params.id',
    'query.times',
    'body.word',
    'body.loud',
    'body',
  ]);
});

test('defaults are filled in, and the success status is that of the route', async () => {
  const made = await app(echoing);
  const answer = await made.inject({ method: 'POST', url: '/echo/a', payload: { word: 'hey' } });
  expect([answer.statusCode, answer.json()]).toEqual([201, { said: 'hey' }]);
});

test('an answer carries what is in its schema and nothing else', async () => {
  const made = await app((open) =>
    handle(open, guarded(['public']), async () => accept({ who: 'me', tokenSha256: 'secret' })),
  );
  expect((await made.inject({ url: '/guarded' })).body).toBe('{"who":"me"}');
});

test.each([
  ['not JSON', '{"word":', 'application/json', 400, 'invalid-request'],
  ['empty', '', 'application/json', 400, 'invalid-request'],
  ['of another type', '<word/>', 'application/xml', 400, 'invalid-request'],
  ['a stream where JSON is expected', 'abc', 'application/octet-stream', 400, 'invalid-request'],
  ['a poisoned prototype', '{"__proto__":{"word":"x"}}', 'application/json', 400, 'invalid-request'],
  ['too large', JSON.stringify({ word: 'x'.repeat(9_000_000) }), 'application/json', 413, 'too-large'],
])('a body that is %s is refused', async (_what, payload, type, status, code) => {
  const made = await app(echoing);
  const answer = await made.inject({ method: 'POST', url: '/echo/a', payload, headers: { 'content-type': type } });
  expect([answer.statusCode, Problem.parse(answer.json()).code]).toEqual([status, code]);
});

test('a member with a name that would be a prototype is named as what is wrong', async () => {
  const made = await app(echoing);
  const payload = '{"__proto__":"x"}';
  const headers = { 'content-type': 'application/json' };
  const answer = await made.inject({ method: 'POST', url: '/echo/a', payload, headers });
  expect(answer.json()).toMatchObject({ detail: expect.stringContaining('named __proto__') });
});

test.each(['/nothing/here', '/api/v1/nothing', '/docs/static/../../package.json'])('%s does not exist', async (url) => {
  const made = await app(() => {});
  const answer = await made.inject({ url });
  expect(answer.statusCode).toBe(404);
  expect(Problem.parse(answer.json()).code).toBe('not-found');
});

test('a URL that is not well formed is a problem too', async () => {
  const made = await app(() => {});
  const answer = await made.inject({ url: '/echo/%zz' });
  expect([answer.statusCode, Problem.parse(answer.json()).code]).toEqual([400, 'invalid-request']);
});

test('a bug is a 500 that tells the caller nothing but the request id', async () => {
  const made = await app((open) =>
    handle(open, guarded(['public']), async () => {
      throw new Error('SELECT secret FROM /var/lib');
    }),
  );
  const answer = await made.inject({ url: '/guarded' });
  expect(answer.statusCode).toBe(500);
  expect(answer.body).not.toContain('secret');
  expect(Problem.parse(answer.json()).detail).toBe(`request ${String(answer.headers['x-request-id'])}`);
});

test('an answer that does not fit its schema is a bug, not an answer', async () => {
  const made = await app((open) =>
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the bug that is meant
    handle(open, guarded(['public']), async () => accept({ who: 7 as never })),
  );
  expect((await made.inject({ url: '/guarded' })).statusCode).toBe(500);
});

/** What the server says to these bytes. */
const answerTo = async (bytes: string): Promise<string> => {
  const made = await app(() => {});
  const { port } = new URL(await made.listen({ port: 0, host: '127.0.0.1' }));
  return new Promise<string>((resolve, reject) => {
    const socket = connect(Number(port), '127.0.0.1', () => socket.write(bytes));
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString();
    });
    socket.on('end', () => resolve(text));
    socket.on('error', reject);
  });
};

test('bytes that are not HTTP, and headers without end, are answered with a problem', async () => {
  const nonsense = await answerTo('not http at all\r\n\r\n');
  expect(nonsense).toMatch(/^HTTP\/1\.1 400 /);
  expect(nonsense).toContain('urn:sluice:problem:invalid-request');
  const endless = await answerTo(`GET / HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`);
  expect(endless).toMatch(/^HTTP\/1\.1 413 /);
  expect(endless).toContain('headers are too long');
});

test('a sender that breaks off is noted, and is no failure of the server', async () => {
  const lines: { level: number; event?: string | undefined }[] = [];
  const Line = z.object({ level: z.number(), event: z.string().optional() });
  const logger = pino({ level: 'debug' }, { write: (line: string) => lines.push(Line.parse(JSON.parse(line))) });
  const { params: _params, query: _query, ...rest } = echo;
  const upload = route({ ...rest, method: 'PUT', path: '/upload', body: 'stream' });
  const made = await app((open) => {
    handle(open, upload, async ({ body }) => {
      for await (const _ of body);
      return accept({ said: '' });
    });
  }, logger);
  const { port } = new URL(await made.listen({ port: 0, host: '127.0.0.1' }));
  const head = 'PUT /upload HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\ncontent-length: 9\r\n\r\n';
  const socket = connect(Number(port), '127.0.0.1', () => socket.write(`${head}abc`, () => socket.destroy()));
  await expect.poll(() => lines.map(({ event }) => event)).toContain('request-broken-off');
  expect(lines.filter(({ level }) => level >= 50)).toEqual([]);
});

test('a newcomer who opens the server in a browser reads what it is and where to look', async () => {
  const made = await app(() => {});
  const page = await made.inject({ url: '/', headers: { accept: 'text/html,*/*' } });
  expect(page.headers['content-type']).toContain('text/html');
  expect(page.body).toContain('href="/docs"');
  const data = await made.inject({ url: '/' });
  expect(data.json()).toMatchObject({ name: 'sluice', version: '9.8.7', openapi: '/openapi.json' });
});

test('the documentation page asks nothing of other hosts', async () => {
  const made = await app(echoing);
  const page = await made.inject({ url: '/docs' });
  expect(page.statusCode).toBe(200);
  expect(page.body).not.toMatch(/(src|href)="(https?:)?\/\//);
  expect(page.headers['content-security-policy']).toContain("default-src 'none'");
  const script = await made.inject({ url: '/docs/static/swagger-ui-bundle.js' });
  expect(script.statusCode).toBe(200);
});

test("the documentation page bears our name and icon, and no one else's", async () => {
  const made = await app(echoing);
  const page = await made.inject({ url: '/docs' });
  expect(page.body).toContain('<title>Sluice API</title>');
  const icons = [...page.body.matchAll(/rel="icon"[^>]* href="([^"]+)"/g)].map((match) => match[1]!);
  expect(icons).toEqual([expect.stringContaining('/theme/icon.svg')]);
  expect((await made.inject({ url: icons[0]! })).body).toMatch(/^<svg/);
  const script = await made.inject({ url: '/docs/static/swagger-initializer.js' });
  // The layout without the bar that shows a logo, and no logo of the plugin's in it.
  expect(script.body).toContain('"BaseLayout"');
});

test('who asks is told by a proxy that is trusted, and by no one else', async () => {
  const asked = route({
    method: 'GET',
    path: '/ip',
    roles: ['public'],
    tags: [],
    summary: 'A route for tests',
    answer: z.object({ ip: z.string() }),
  });
  const ipOf = async (trusted: string[] | undefined, remoteAddress: string, forwardedFor: string): Promise<string> => {
    const made = await app((it) => handle(it, asked, async ({ ip }) => accept({ ip })), undefined, trusted);
    const headers = { 'x-forwarded-for': forwardedFor };
    return (await made.inject({ url: '/ip', remoteAddress, headers })).json().ip;
  };
  expect(await ipOf(undefined, '10.0.0.7', '203.0.113.9')).toBe('10.0.0.7');
  expect(await ipOf([], '10.0.0.7', '203.0.113.9')).toBe('10.0.0.7');
  expect(await ipOf(['10.0.0.0/8'], '10.0.0.7', '203.0.113.9')).toBe('203.0.113.9');
  expect(await ipOf(['10.0.0.0/8'], '192.0.2.1', '203.0.113.9')).toBe('192.0.2.1');
  // What the sender wrote himself stands left of what the proxy added, and is not believed.
  expect(await ipOf(['10.0.0.0/8'], '10.0.0.7', '198.51.100.1, 203.0.113.9')).toBe('203.0.113.9');
});
