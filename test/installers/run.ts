/**
 * `npm run test:installers`: RAUC and SWUpdate as the distribution packages them, through the agent's whole way. As
 * root: RAUC mounts its bundles. Exit code 77: not run, because something is missing here.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

const NOT_RUN = 77;
const TOOLS = ['rauc', 'swupdate', 'dbus-daemon', 'mksquashfs', 'openssl', 'cpio'];

const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
const lost = TOOLS.filter(
  (tool) => spawnSync('sh', ['-c', `command -v ${tool}`], { env: { PATH: path } }).status !== 0,
);
const why =
  lost.length > 0
    ? `not installed: ${lost.join(', ')} (Debian: apt-get install rauc swupdate dbus squashfs-tools openssl cpio)`
    : process.getuid?.() === 0
      ? undefined
      : 'this is not root, and RAUC mounts its bundles';
if (why === undefined) {
  const words = ['vitest', 'run', '--config', join(import.meta.dirname, 'vitest.config.ts')];
  process.exitCode = spawnSync('npx', words, { stdio: 'inherit', env: { ...process.env, PATH: path } }).status ?? 1;
} else {
  process.stderr.write(`SKIPPED: ${why}\n`);
  process.exitCode = NOT_RUN;
}
