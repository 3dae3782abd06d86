import { z } from 'zod';

export const Limits = z.strictObject({
  /**
   * Of each process: heap, stacks and private memory (RLIMIT_DATA). Not the address space, of which runtimes reserve
   * far more than they use.
   */
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
