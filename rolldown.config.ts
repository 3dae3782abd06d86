/** `npm run build:agent`: the agent as one JavaScript file, which needs Node and nothing else. docs/agent.md says how to run it. */
import { defineConfig } from 'rolldown';

export default defineConfig({
  input: 'agent/main.ts',
  platform: 'node',
  output: {
    file: process.env['SLUICE_AGENT_FILE'] ?? 'dist/sluice-agent.mjs',
    format: 'esm',
    codeSplitting: false,
    // Shorter, but with names as they are: a stack trace from a device must be readable.
    minify: { compress: true, mangle: false, codegen: { removeWhitespace: true } },
    // One character beyond would make V8 keep all of it with two bytes a character.
    charset: 'ascii',
    comments: { legal: true, annotation: false, jsdoc: false },
    postBanner: '#!/usr/bin/env node',
  },
});
