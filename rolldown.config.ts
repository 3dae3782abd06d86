/** The agent as one JavaScript file, which needs Node and nothing else: for `build-agent.ts`. docs/agent.md says how to run it. */
import { defineConfig, type Plugin } from 'rolldown';

const file = process.env['SLUICE_AGENT_FILE'] ?? 'dist/sluice-agent.cjs';
/** By its name: CommonJS takes 1.3 MB less memory than an ES module, and is what a single executable can hold. */
const format = file.endsWith('.cjs') ? 'cjs' : 'esm';

/** What Node has itself, and what the agent never does: together a fifth of the file. */
const INSTEAD: Record<string, string> = {
  'readable-stream': 'module.exports = require("node:stream");',
  socks: 'exports.SocksClient = class { constructor() { throw new Error("this agent knows no SOCKS proxies"); } };',
  'worker-timers': '// Only browsers need them.',
};
const instead: Plugin = {
  name: 'instead',
  resolveId: (id) => (id in INSTEAD ? `\0${id}.cjs` : null),
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
