#!/usr/bin/env node
// The launcher. Sluice needs a recent Node and brings one along for Linux, so an older one only has to get as far as here.
// Plain JavaScript that every Node since 14 can parse.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import module from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const { engines } = JSON.parse(readFileSync(join(here, '..', 'package.json'), 'utf8'));
/** As package.json says it: `>=24.15`. */
const oldest = engines.node.replace('>=', '');

const isRecent = () => {
  const [major, minor] = process.versions.node.split('.').map(Number);
  const [oldestMajor, oldestMinor] = oldest.split('.').map(Number);
  return major > oldestMajor || (major === oldestMajor && minor >= oldestMinor);
};

/** The Node that npm put into the nearest node_modules. */
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

if (isRecent()) {
  // Compiled code is kept, which halves the time to start. Without it, or where it cannot be written, all works the same.
  if (existsSync(join(here, '..', 'node_modules'))) {
    module.enableCompileCache(join(here, '..', 'node_modules', '.cache', 'sluice'));
  }
  await import('./sluice.ts');
} else {
  const node = findNode();
  if (node === undefined) {
    process.stderr.write(
      `sluice needs Node ${oldest} or newer, and this is ${process.versions.node}: install one, or on Linux run \`npm ci\`\n`,
    );
    process.exitCode = 1;
  } else runWith(node);
}
