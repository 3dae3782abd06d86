/**
 * The OpenAPI 3.1 document at `/openapi.json`, made from the very definitions that validate, and a page that shows it
 * at `/docs`.
 */
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { FastifyInstance, FastifySchema } from 'fastify';
import { jsonSchemaTransform } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { routes } from '#shared/api.ts';
import { deviceRoutes } from '#shared/device-api.ts';
import { PROBLEM_CODES, PROBLEMS, Problem, type ProblemCode } from '#shared/problems.ts';
import type { Route } from '#shared/route.ts';
import { DOCS_THEME } from './docs-theme.ts';

const NAMES = new Map<Route, string>(
  Object.entries({ ...routes, ...deviceRoutes }).map(([name, route]) => [route, name]),
);

const TAGS = {
  releases: 'Bundles from CI: uploaded, accepted, staged, withdrawn',
  rollouts: 'Campaigns of one release, wave by wave',
  cohorts: 'Named selections of devices',
  changes: 'Issues and commits, followed to the devices',
  devices: 'The fleet, its tags, its history',
  products: 'What is versioned, and who may sign for it',
  audit: 'Everything that happened, in a log that can be checked offline',
  operators: 'People and machines that may use this API',
  device: 'What device agents call',
};

/** Must be called before any route is registered: it listens to registrations. */
export const describeApi = async (app: FastifyInstance, version: string): Promise<void> => {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Sluice',
        version,
        description:
          'Updates fleets of devices over the air, wave by wave. Every refusal is `application/problem+json` (RFC 9457) with a `code`. ' +
          'Times are milliseconds since 1970. Lists are pages: pass `next` as `after`. [Start page](/)',
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      tags: Object.entries(TAGS).map(([name, description]) => ({ name, description })),
      components: {
        securitySchemes: {
          operator: { type: 'http', scheme: 'bearer', description: 'An operator token, `slo_...`' },
          device: {
            type: 'apiKey',
            in: 'header',
            name: 'authorization',
            description: '`Device <login>`: a short-lived login, signed with the device key',
          },
        },
      },
    },
    transform: (document) =>
      document.schema === undefined || document.schema.hide === true
        ? { schema: { ...document.schema, hide: true }, url: document.url }
        : jsonSchemaTransform(document),
  });
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    // The page needs nothing from outside, and works over plain HTTP too: no upgrade-insecure-requests.
    staticCSP:
      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'self'; form-action 'none'",
    // The other layout has a bar with the logo of its maker.
    uiConfig: { layout: 'BaseLayout', docExpansion: 'list', tryItOutEnabled: false, persistAuthorization: false },
    theme: DOCS_THEME,
  });
  app.get('/openapi.json', { config: { roles: ['public'] }, schema: { hide: true } }, async (_request, reply) =>
    reply.type('application/json').send(JSON.stringify(app.swagger())),
  );
};

/** What fastify and OpenAPI should know of a route; validation itself is done by `handle`. */
export const openApiSchema = (definition: Route): FastifySchema => {
  const name = NAMES.get(definition);
  const security = [
    ...(definition.roles.some((role) => role !== 'device' && role !== 'public') ? [{ operator: [] }] : []),
    ...(definition.roles.includes('device') ? [{ device: [] }] : []),
  ];
  const stream = definition.body === 'stream';
  return {
    summary: definition.summary,
    tags: definition.tags,
    ...(name === undefined ? {} : { operationId: name }),
    ...(definition.roles.includes('public') ? {} : { description: `For: ${definition.roles.join(', ')}.` }),
    security,
    ...(definition.params === undefined ? {} : { params: definition.params }),
    ...(definition.query === undefined ? {} : { querystring: definition.query }),
    ...(definition.body === undefined
      ? {}
      : { body: stream ? z.unknown().meta({ type: 'string', format: 'binary' }) : definition.body }),
    ...(stream ? { consumes: ['application/octet-stream'] } : {}),
    response: {
      [definition.success ?? 200]: {
        description: 'Done',
        content: { 'application/json': { schema: definition.answer } },
      },
      ...errorAnswers(definition),
    },
  };
};

/**
 * The statuses a route may refuse with: what its form allows, and those of the table that depend on the state of
 * things.
 */
const errorAnswers = (definition: Route): Record<number, unknown> => {
  const statuses = new Set<number>([400, 500, 503]);
  if (!definition.roles.includes('public')) [401, 403].forEach((status) => statuses.add(status));
  if (definition.params !== undefined) statuses.add(404);
  if (definition.method !== 'GET') [404, 409, 413, 422].forEach((status) => statuses.add(status));
  if (definition.body === 'stream') [408, 507].forEach((status) => statuses.add(status));
  return Object.fromEntries(
    [...statuses].map((status) => [
      status,
      {
        description: codesOf(status)
          .map((code) => `\`${code}\`: ${PROBLEMS[code][1]}`)
          .join('. '),
        content: { 'application/problem+json': { schema: Problem } },
      },
    ]),
  );
};

const codesOf = (status: number): ProblemCode[] => PROBLEM_CODES.filter((code) => PROBLEMS[code][0] === status);
