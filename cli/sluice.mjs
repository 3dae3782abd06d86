#!/usr/bin/env node
// The launcher. Sluice is TypeScript, which Node runs from 22.18 on; the project brings its own Node, so an older one only
// has to get as far as here. Plain JavaScript that every Node since 14 can parse.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import module from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);

/** The Node that `npm ci` put into the nearest node_modules. */
const findNode = () => {
  for (let folder = here; ; folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', '.bin', 'node');
    if (existsSync(candidate)) return candidate;
    if (folder === dirname(folder)) return undefined;
  }
};

const runWith = (node) => {
  const child = spawn(node, [join(here, 'sluice.ts'), ...process.argv.slice(2)], { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('error', (error) => {
    process.stderr.write(`sluice: ${node} does not start: ${error.message}\n`);
    process.exitCode = 1;
  });
  child.on('exit', (code, signal) => {
    if (signal === null) process.exitCode = code ?? 1;
    else {
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
    }
  });
};

if (major > 22 || (major === 22 && minor >= 18)) {
  // Compiled code is kept, which halves the time to start. Without it, or where it can not be written, all works the same.
  if (existsSync(join(here, '..', 'node_modules'))) {
    module.enableCompileCache(join(here, '..', 'node_modules', '.cache', 'sluice'));
  }
  await import('./sluice.ts');
} else {
  const node = findNode();
  if (node === undefined) {
    process.stderr.write(`sluice needs Node 22.18 or newer, this is ${process.versions.node}: run \`npm ci\` first\n`);
    process.exitCode = 1;
  } else runWith(node);
}
