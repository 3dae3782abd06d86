/** What the agent keeps of what it has installed, so that the next release costs less. */

/** How the bytes of installed artifacts are kept. */
export const KEEP = ['raw', 'zstd', 'none'] as const;

export type Keep = (typeof KEEP)[number];
