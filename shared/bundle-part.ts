/** What a bundle holds besides its manifest. */
import { Sha256 } from './ids.ts';
import { Manifest } from './manifest.ts';

export type BundlePart = { kind: 'artifact' | 'attachment'; name: string; bytes: number; sha256: Sha256 };

/** The parts of a bundle in the order in which the tar holds them. */
export const partsOf = (manifest: Manifest): BundlePart[] => [
  ...manifest.artifacts.map(({ name, bytes, sha256 }) => ({ kind: 'artifact' as const, name, bytes, sha256 })),
  ...manifest.attachments.map(({ name, bytes, sha256 }) => ({ kind: 'attachment' as const, name, bytes, sha256 })),
];
