/**
 * What the application may take of the device. Limits are the device's to set, not a release's: they protect
 * the one from the other. They are the kernel's per-process ones, set right before the application is executed; caps over everything that the
 * agent runs (memory, processor share) are its unit's (`MemoryMax=`, `CPUQuota=`): a second owner of the unit's control group would
 * break systemd's rules for them.
 */
import { z } from 'zod';

export const Limits = z.strictObject({
  /** Of each process: heap, stacks and private memory (RLIMIT_DATA). Not the address space, of which runtimes reserve far more than they use. */
  memoryBytes: z
    .number()
    .int()
    .min(1024 * 1024)
    .optional(),
  /** Open files and sockets of each process. */
  files: z.number().int().min(16).max(1_048_576).optional(),
  /** Processes and threads of the application's user, all together; the kernel does not hold root to it. */
  processes: z.number().int().min(1).max(1_048_576).optional(),
  /** The largest file that it may write. */
  fileBytes: z.number().int().min(4096).optional(),
  /** From 0 to 19: who yields when the processor is short. */
  nice: z.number().int().min(0).max(19).optional(),
});
export type Limits = z.infer<typeof Limits>;

/** `sh` makes these of itself and then becomes the application; one that can not be set ends it with 125. */
export const limitScript = (limits: Limits, exec: string): string => {
  const blocks = (bytes: number, size: number): number => Math.max(1, Math.floor(bytes / size));
  const set = [
    limits.memoryBytes === undefined ? '' : `ulimit -d ${blocks(limits.memoryBytes, 1024)}`,
    limits.files === undefined ? '' : `ulimit -n ${limits.files}`,
    // dash calls it -p, which is read-only in others, where it is -u.
    limits.processes === undefined
      ? ''
      : `{ ulimit -u ${limits.processes} 2>/dev/null || ulimit -p ${limits.processes}; }`,
    limits.fileBytes === undefined ? '' : `ulimit -f ${blocks(limits.fileBytes, 512)}`,
  ].filter((command) => command !== '');
  const nice = limits.nice === undefined ? '' : `nice -n ${limits.nice} `;
  const guarded = set.length === 0 ? '' : `{ ${set.join(' && ')}; } || exit 125; `;
  return `${guarded}exec ${nice}${exec}`;
};
