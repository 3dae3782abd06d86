/**
 * The HTTP server without its routes: authentication that denies by default, problems for every error, limits and
 * timeouts, OpenAPI. Routes are registered with `handle` from the definitions in shared/api.ts and
 * shared/device-api.ts.
 */
import { randomUUID } from 'node:crypto';
import { Socket } from 'node:net';
import {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type FastifySerializerCompiler,
  type FastifyServerOptions,
  fastify,
  LogController,
} from 'fastify';
import { serializerCompiler } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { BOOT_HEADER } from '#shared/device-api.ts';
import { Id } from '#shared/ids.ts';
import { type Problem, type Refusal, type Result, refuse } from '#shared/problems.ts';
import type { Role, Route, RouteAnswer, RouteInput } from '#shared/route.ts';
import {
  authenticate,
  type Credentials,
  type DeviceWho,
  type OperatorWho,
  type PublicWho,
  type Who,
} from './authenticate.ts';
import { type BodyLimits, JSON_BYTES_MAX, KNOWN, openBodyGuard, STRANGERS } from './body-guard.ts';
import { decodeBody, UnknownEncoding } from './content-encoding.ts';
import { answerErrors, rawProblem, sendNotFound, sendProblem } from './errors.ts';
import { describeApi, openApiSchema } from './openapi.ts';
import { welcome } from './welcome.ts';

/** A body that is refused early is read on for this long, so that the caller gets to see the answer; then it is cut. */
const DRAIN_MS_MAX = 5_000;
const HANDLER_MS_MAX = 30_000;
/** An upload of 4 GB at 200 kB/s. */
const STREAM_MS_MAX = 6 * 3_600_000;
const IDLE_MS_MAX = 120_000;
/** Headers that come slower than this are cut; Node looks that often. */
const HEADERS = { headersTimeout: 15_000, connectionsCheckingInterval: 5_000 };

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Who may call the route. A route without this cannot be registered. */
    roles?: readonly Role[];
    /** The handler reads the body itself, within limits of its own. */
    streams?: boolean;
    gate?: (address: string) => Refusal | undefined;
  }
  interface FastifyRequest {
    who: Who;
  }
}

export type AppDeps = Credentials & {
  version: string;
  logger?: FastifyBaseLogger | undefined;
  tls?: { key: string; cert: string } | undefined;
  /** Whose `X-Forwarded-For` tells who asks; no one's unless given. */
  trustProxy?: string[] | undefined;
  /** A device asked something in this life. */
  deviceHeard?: (device: Id, boot: Id) => void;
  /** Default: STRANGERS and KNOWN (body-guard.ts). */
  bodies?: { strangers: BodyLimits; known: BodyLimits } | undefined;
};

/** Who calls a route, as far as its roles tell. */
type WhoOf<R extends Route> = R['roles'][number] extends 'public'
  ? PublicWho
  : R['roles'][number] extends 'device'
    ? DeviceWho
    : 'device' extends R['roles'][number]
      ? DeviceWho | OperatorWho
      : OperatorWho;
type HandlerInput<R extends Route> = RouteInput<R> & { who: WhoOf<R>; ip: string; log: FastifyBaseLogger };
export type RouteHandler<R extends Route> = (input: HandlerInput<R>) => Promise<Result<RouteAnswer<R>>>;

/**
 * Builds the app; the caller registers routes, then listens. Routes that cannot use `handle` (streams) are registered
 * with `app.get(path, { config: { roles: [...] } }, ...)`, find the caller in `request.who`, and set their own
 * `handlerTimeout`.
 */
export const buildApp = async (deps: AppDeps): Promise<FastifyInstance> => {
  const app = fastify(serverOptions(deps));
  // Bodies are JSON, or a stream that only a route which expects one reads.
  app.removeContentTypeParser('text/plain');
  app.addContentTypeParser('application/octet-stream', (request, payload, done) => {
    const body = decodeBody(payload, request.headers['content-encoding']);
    if (body === undefined) done(new UnknownEncoding());
    else done(null, body);
  });
  answerErrors(app);
  guard(app, deps);
  await describeApi(app, deps.version);
  welcome(app, deps.version);
  return app;
};

const serverOptions = (deps: AppDeps): FastifyServerOptions => ({
  ...(deps.logger === undefined ? { logger: false } : { loggerInstance: deps.logger }),
  ...(deps.tls === undefined ? {} : { https: { ...deps.tls, ...HEADERS, minVersion: 'TLSv1.2' } }),
  logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
  genReqId: () => randomUUID(),
  requestIdHeader: false,
  bodyLimit: JSON_BYTES_MAX,
  ...(deps.trustProxy === undefined || deps.trustProxy.length === 0 ? {} : { trustProxy: deps.trustProxy }),
  // A whole upload may take hours, a silence in it may not. Slow JSON is cut by the handler timeout.
  requestTimeout: 0,
  ...(deps.tls === undefined ? { http: HEADERS } : {}),
  connectionTimeout: IDLE_MS_MAX,
  keepAliveTimeout: 72_000,
  forceCloseConnections: 'idle',
  return503OnClosing: false,
  routerOptions: { maxParamLength: 256 },
  frameworkErrors: (error, _request, reply) => {
    void sendProblem(reply, refuse('invalid-request', `the URL is not well formed (${error.code})`));
  },
  clientErrorHandler: (error, socket) => {
    if (!socket.writable) socket.destroy();
    else if (error.code === 'HPE_HEADER_OVERFLOW') socket.end(rawProblem('too-large', 'URL and headers are too long'));
    else socket.end(rawProblem('invalid-request', 'that is not HTTP that this server understands'));
  },
});

const guard = (app: FastifyInstance, deps: AppDeps): void => {
  let closing = false;
  const strangers = openBodyGuard(deps.bodies?.strangers ?? STRANGERS);
  const known = openBodyGuard(deps.bodies?.known ?? KNOWN);
  app.decorateRequest('who');
  app.addHook('preClose', async () => {
    closing = true;
  });
  app.addHook('onRoute', (added) => {
    // The documentation page's own routes are the one exception: a plugin registers them, all of them to read only.
    if (added.url === '/docs' || added.url.startsWith('/docs/')) added.config = { ...added.config, roles: ['public'] };
    if (added.config?.roles === undefined) throw new Error(`${added.url} says not who may call it: give config.roles`);
  });
  app.addHook('onRequest', async (request, reply) => {
    void reply.headers({
      'x-request-id': request.id,
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'DENY',
      'referrer-policy': 'no-referrer',
      'cross-origin-resource-policy': 'same-origin',
    });
    if (closing) return sendProblem(reply, refuse('unavailable', 'the server is stopping; try again in a moment'));
    // What does not exist needs no body.
    if (request.is404) return sendNotFound(request, reply);
    const shut = request.routeOptions.config.gate?.(request.ip);
    if (shut !== undefined) return sendProblem(reply, shut);
    const who = await authenticate(deps, request.headers.authorization, request.routeOptions.config.roles ?? []);
    if (!who.ok) return sendProblem(reply, who);
    request.who = who.value;
    const boot = Id.safeParse(request.headers[BOOT_HEADER]);
    if (who.value.kind === 'device' && boot.success) deps.deviceHeard?.(who.value.device, boot.data);
    if (request.routeOptions.config.streams === true) return undefined;
    const refused = (who.value.kind === 'public' ? strangers : known)(request, reply);
    return refused === undefined ? undefined : sendProblem(reply, refused);
  });
  app.addHook('onSend', async (request, reply) => {
    if (isUnread(request.raw)) void reply.header('connection', 'close');
    if (reply.getHeader('content-security-policy') === undefined) {
      void reply.header('content-security-policy', "default-src 'none'; frame-ancestors 'none'");
    }
  });
  app.addHook('onResponse', async (request, reply) => {
    logRequest(request, reply);
    const { raw } = request;
    if (raw.complete) return;
    const { socket } = raw;
    // An injected request has no connection to end.
    if (!(socket instanceof Socket)) return;
    const timer = setTimeout(() => {
      if (!raw.complete) socket.destroy();
    }, DRAIN_MS_MAX);
    socket.once('close', () => clearTimeout(timer));
  });
};

/**
 * One line a request: what changes something is worth reading, what only reads (devices ask all day) is for debugging.
 */
const logRequest = (request: FastifyRequest, reply: FastifyReply): void => {
  const { method } = request;
  const line = {
    event: 'http-request',
    method,
    path: request.url.split('?', 1)[0],
    status: reply.statusCode,
    ms: Math.round(reply.elapsedTime),
    by: nameOf(request.who),
  };
  const level = method === 'GET' || method === 'HEAD' ? 'debug' : 'info';
  request.log[level](line, `${method} ${line.path} ${line.status}`);
};

const nameOf = (who: Who | undefined): string => {
  switch (who?.kind) {
    case 'operator':
      return who.name;
    case 'device':
      return `device:${who.device}`;
    default:
      return 'public';
  }
};

/** Is there a long body that no one has read to its end? */
const isUnread = (raw: { complete: boolean; headers: Record<string, unknown> }): boolean =>
  !raw.complete &&
  (raw.headers['transfer-encoding'] !== undefined || Number(raw.headers['content-length'] ?? 0) > 65_536);

/** Registers one route: parse all of it, call, answer by the answer's schema. */
export const handle = <const R extends Route>(
  app: FastifyInstance,
  definition: R,
  handler: RouteHandler<R>,
  /** Asked first of all, before the caller is looked up and the body is read. */
  gate?: (address: string) => Refusal | undefined,
): void => {
  const streams = definition.body === 'stream';
  app.route({
    method: definition.method,
    url: definition.path,
    config: { roles: definition.roles, streams, ...(gate === undefined ? {} : { gate }) },
    bodyLimit: definition.bodyBytesMax ?? JSON_BYTES_MAX,
    schema: openApiSchema(definition),
    // Per route, because a global zod compiler breaks the routes of plugins. Validation is done below, for params,
    // query and body at once: fastify stops at the first of them that is wrong.
    validatorCompiler: () => (data: unknown) => ({ value: data }),
    serializerCompiler: zodSerializer,
    handlerTimeout: streams ? STREAM_MS_MAX : HANDLER_MS_MAX,
    handler: async (request, reply) => {
      const parsed = parseInput(definition, request);
      if (!parsed.ok) return sendProblem(reply, refuse('invalid-request', sentence(parsed.issues)), parsed.issues);
      const input = { ...parsed.input, who: request.who, ip: request.ip, log: request.log };
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- parseInput has just made it so, by R's own schemas
      const result = await handler(input as HandlerInput<R>);
      if (!result.ok) return sendProblem(reply, result);
      return reply
        .code(definition.success ?? 200)
        .header('cache-control', 'no-store')
        .type('application/json')
        .send(result.value);
    },
  });
};

/** Per route as well, and for the same reason. */
const zodSerializer: FastifySerializerCompiler<unknown> = (route) =>
  serializerCompiler({ ...route, schema: z.instanceof(z.ZodType).parse(route.schema) });

/** Told at once; after them a caller has enough to mend. */
const ISSUES_MAX = 100;

type Issues = NonNullable<Problem['issues']>;

const parseInput = (
  definition: Route,
  request: { params: unknown; query: unknown; body: unknown },
): { ok: true; input: Record<string, unknown> } | { ok: false; issues: Issues } => {
  const issues: Issues = [];
  const input: Record<string, unknown> = {};
  const parse = (part: 'params' | 'query' | 'body', schema: z.ZodType | undefined, value: unknown): void => {
    const result = schema?.safeParse(value);
    input[part] = result?.data;
    for (const issue of (result?.error?.issues ?? []).slice(0, ISSUES_MAX - issues.length)) {
      issues.push({ path: [part, ...issue.path.map(String)].join('.'), message: issue.message });
    }
  };
  parse('params', definition.params, request.params);
  parse('query', definition.query, request.query);
  if (definition.body === 'stream') {
    input.body = request.body;
    if (!isStream(request.body)) issues.push({ path: 'body', message: 'send content-type application/octet-stream' });
  } else if (isStream(request.body)) {
    issues.push({ path: 'body', message: 'send content-type application/json' });
  } else {
    // No body at all is an empty one: `curl -X POST .../pause` is fine where every field has a default.
    parse('body', definition.body, request.body ?? {});
  }
  return issues.length === 0 ? { ok: true, input } : { ok: false, issues };
};

const isStream = (body: unknown): boolean => typeof body === 'object' && body !== null && Symbol.asyncIterator in body;

const sentence = (issues: Issues): string =>
  issues
    .map((issue) => `${issue.path}: ${issue.message}`)
    .join('; ')
    .slice(0, 2_000);
