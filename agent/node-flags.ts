/** How Node runs on a device: without machine code of its own making, with small heaps. Less than half of the memory (docs/agent.md). */
export const NODE_FLAGS = [
  '--lite-mode',
  '--max-old-space-size=32',
  '--max-semi-space-size=1',
  '--v8-pool-size=0',
] as const;
