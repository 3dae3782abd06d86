/** For `npm run test:quick`: what starts a process belongs elsewhere (vitest.config.ts). */
import { ChildProcess } from 'node:child_process';

// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- Node's own, which its types do not show
const prototype = ChildProcess.prototype as unknown as { spawn: () => never };
prototype.spawn = () => {
  throw new Error('this test starts a process: name its file among those of PROCESSES in vitest.config.ts');
};
