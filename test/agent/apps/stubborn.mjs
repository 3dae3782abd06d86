/** Ignores SIGTERM, and has a child in a process group of its own that does the same. */
import { spawn } from 'node:child_process';

process.on('SIGTERM', () => console.log('no'));
if (process.argv[2] !== 'child') {
  const child = spawn(process.execPath, [process.argv[1], 'child'], { detached: true, stdio: 'ignore' });
  console.log(`child ${child.pid}`);
}
setInterval(() => undefined, 1_000);
