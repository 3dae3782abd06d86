/**
 * A bundle is one tar file: `manifest.json`, then `artifacts/<name>` and `attachments/<name>` in the manifest's order,
 * and nothing else. Every byte around the bodies (headers, padding, end) follows from the manifest, so a bundle of
 * given contents has exactly one form: the reader computes that form and refuses anything that differs in a single bit.
 * Any tar program can list and unpack it. Both directions stream: memory does not grow with the bundle.
 */
import type { z } from 'zod';
import { type BundlePart, partsOf } from './bundle-part.ts';
import { Manifest } from './manifest.ts';
import { manifestFaults } from './new-manifest.ts';
import { accept, type Refusal, type Result, refuse } from './problems.ts';
import { TAR_BLOCK as BLOCK } from './tar.ts';

const END_BYTES = 2 * BLOCK;
export const MANIFEST_NAME = 'manifest.json';
export const ZEROS = Buffer.alloc(END_BYTES);
export const entryName = (part: BundlePart): string => `${part.kind}s/${part.name}`;
export const paddingOf = (bytes: number): number => (BLOCK - (bytes % BLOCK)) % BLOCK;

/**
 * Carries a refusal out of a body that someone else is reading, so that a sink never takes a bad part for a whole one.
 */
export class BundleFault extends Error {
  readonly refusal: Refusal;
  constructor(refusal: Refusal) {
    super(refusal.detail);
    this.refusal = refusal;
  }
}
export const fault = (code: Refusal['code'], detail: string): BundleFault => new BundleFault(refuse(code, detail));

/** Of the right form, and fit to be published. */
export const checkManifest = (json: unknown): Result<Manifest> => {
  const parsed = Manifest.safeParse(json);
  if (!parsed.success) return refuse('manifest-invalid', describeIssues(parsed.error));
  const faults = manifestFaults(parsed.data);
  return faults.length === 0 ? accept(parsed.data) : refuse('manifest-invalid', faults.slice(0, 20).join('; '));
};

export const describeIssues = (error: z.ZodError): string =>
  error.issues
    .slice(0, 20)
    .map((issue) => `${issue.path.join('.') || 'manifest'}: ${issue.message}`)
    .join('; ');

export const bundleBytes = (manifestBytes: number, manifest: Manifest): number => {
  const padded = (bytes: number) => 3 * BLOCK + bytes + paddingOf(bytes);
  return padded(manifestBytes) + partsOf(manifest).reduce((sum, part) => sum + padded(part.bytes), 0) + END_BYTES;
};
