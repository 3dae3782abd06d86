/**
 * The agent as one JavaScript file, which needs Node and nothing else: for `build-agent.ts`. docs/agent.md says how to
 * run it.
 */
import { defineConfig, type Plugin } from 'rolldown';

const file = process.env['SLUICE_AGENT_FILE'] ?? 'dist/sluice-agent.cjs';
/** By its name: CommonJS takes 1.3 MB less memory than an ES module, and is what a single executable can hold. */
const format = file.endsWith('.cjs') ? 'cjs' : 'esm';

const refused = (name: string, what: string): string =>
  `exports.${name} = class { constructor() { throw new Error(${JSON.stringify(what)}); } };`;
/**
 * What Node has itself, what the agent never does, and what it seldom does and then loads: a quarter of the file, and 2
 * MB of memory.
 */
const INSTEAD: Record<string, string> = {
  'readable-stream': 'module.exports = require("node:stream");',
  socks: refused('SocksClient', 'this agent knows no SOCKS proxies'),
  'lru-cache': refused('LRUCache', 'this agent speaks no MQTT 5'),
  'thread-stream': `${refused('ThreadStream', 'this agent logs in its own thread')} module.exports = exports.ThreadStream;`,
  // MQTT over WebSockets.
  ws: 'exports.__esModule = true; Object.defineProperty(exports, "default", { get: () => require("ws") });',
  'worker-timers': '// Only browsers need them.',
};
const instead: Plugin = {
  name: 'instead',
  resolveId(id, importer) {
    if (!(id in INSTEAD)) return null;
    const stand = `\0${id}.cjs`;
    // The one that it stands for.
    return importer === stand ? this.resolve(id, import.meta.filename, { skipSelf: true }) : stand;
  },
  load: (id) => INSTEAD[id.slice(1, -'.cjs'.length)] ?? null,
};

export default defineConfig({
  input: 'agent/main.ts',
  platform: 'node',
  plugins: [instead],
  transform: format === 'cjs' ? { define: { 'import.meta.main': 'true' } } : {},
  output: {
    file,
    format,
    codeSplitting: false,
    // Shorter, but with names as they are: a stack trace from a device must be readable.
    minify: { compress: true, mangle: false, codegen: { removeWhitespace: true } },
    // One character beyond would make V8 keep all of it with two bytes a character.
    charset: 'ascii',
    comments: { legal: true, annotation: false, jsdoc: false },
    postBanner: '#!/usr/bin/env node',
  },
});
