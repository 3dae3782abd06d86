/** The page at `/`: for a newcomer who opens the server in a browser and wonders what it is. Programs get JSON. */
import { createHash } from 'node:crypto';
import type { FastifyInstance } from 'fastify';

const STYLE = `:root{color-scheme:light dark;font:16px/1.6 system-ui,sans-serif}
body{max-width:42rem;margin:12vh auto 4rem;padding:0 1.5rem}
h1{font-size:2rem;letter-spacing:-.02em;margin:0}
p.lead{font-size:1.15rem;margin:.25rem 0 2rem;opacity:.8}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.5rem 1.5rem}
dt{font-weight:600}dd{margin:0}
code{font:.9em ui-monospace,monospace;background:color-mix(in srgb,currentColor 10%,transparent);padding:.15em .4em;border-radius:.3em}
a{color:light-dark(#0b5cad,#7ab8ff)}`;

const PAGE = (version: string): string => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Sluice</title><style>${STYLE}</style></head><body>
<h1>Sluice</h1>
<p class="lead">Updates fleets of devices over the air, wave by wave, and stops by itself when an update is bad.</p>
<dl>
<dt><a href="/docs">/docs</a></dt><dd>The API, to read and to try out</dd>
<dt><a href="/openapi.json">/openapi.json</a></dt><dd>The same for programs (OpenAPI 3.1)</dd>
<dt><a href="/health">/health</a></dt><dd>Whether this server is well</dd>
</dl>
<p>From a shell: <code>npx sluice login</code>, then <code>npx sluice device list</code> or <code>npx sluice rollout watch</code>.</p>
<p><small>Version ${version}</small></p>
</body></html>
`;

const CSP = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'`;

export const welcome = (app: FastifyInstance, version: string): void => {
  const page = PAGE(version);
  app.get('/', { config: { roles: ['public'] }, schema: { hide: true } }, async (request, reply) =>
    request.headers.accept?.includes('text/html')
      ? reply.header('content-security-policy', CSP).type('text/html; charset=utf-8').send(page)
      : reply.send({ name: 'sluice', version, docs: '/docs', openapi: '/openapi.json', health: '/health' }),
  );
};
