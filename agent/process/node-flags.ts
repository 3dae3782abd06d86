/**
 * How Node runs on a device: without machine code of its own making, with small heaps. Less than half of the memory
 * (docs/agent.md).
 */
export const NODE_FLAGS = [
  '--lite-mode',
  '--max-old-space-size=32',
  '--max-semi-space-size=1',
  '--v8-pool-size=0',
  // Every piece from a socket is memory beside the small heap, and has it collected: with no second thread for that,
  // and a heap that may grow in between, a fetch takes some 60 % of the processor time where nothing compresses, 80 %
  // for text.
  '--single-threaded-gc',
  '--heap-growing-percent=200',
  // For give-memory-back.ts.
  '--expose-gc',
] as const;

/**
 * Of the C library: one heap, of which large pieces are no part and whose end is given back. Chunks (112 KiB at most)
 * are part of it: a mapping for each would double the time of unpacking.
 */
export const MALLOC_ENVIRONMENT = {
  MALLOC_ARENA_MAX: '1',
  MALLOC_MMAP_THRESHOLD_: '131072',
  MALLOC_TRIM_THRESHOLD_: '131072',
  MALLOC_TOP_PAD_: '0',
} as const;
