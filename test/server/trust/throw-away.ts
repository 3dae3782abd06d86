/** A really signed throw-away repository, with a product, its CI, and one published manifest. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { Keyring } from '#server/trust/keyring.ts';
import { openRepository, type Repository } from '#server/trust/repository.ts';
import { Id, manifestPath } from '#shared/ids.ts';
import { addManifests } from '#shared/trust/delegation.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';
import { firstStart } from './made-once.ts';

const signerOf = (kind: 'ed25519' | 'rsa-3072'): Signer => {
  const signer = signerFromPem(generatePrivateKey(kind));
  if (!signer.ok) throw new Error(signer.detail);
  return signer.value;
};
export const newSigner = (): Signer => signerOf('ed25519');

const rsaSigners = new Map<string, Signer>();
/** By any name; made once in a process, since that takes most of a second. */
export const rsaSigner = (name = 'ci'): Signer => {
  const signer = rsaSigners.get(name) ?? signerOf('rsa-3072');
  rsaSigners.set(name, signer);
  return signer;
};

type Finished = (remove: () => Promise<void>) => void;

/** Removed when the test has ended; `finished` may be `afterAll`. */
export const newFolder = async (finished: Finished = onTestFinished): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-trust-'));
  finished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};

export const PRODUCT = Id.parse('gateway');
export const COMPATIBLE = Id.parse('gw2');
export const NOW = Date.UTC(2026, 10, 20);
export const DAY_MS = 86_400_000;

export const manifestOf = (version: string, changes: object = {}): Buffer =>
  Buffer.from(
    JSON.stringify({
      format: 1,
      product: PRODUCT,
      version,
      compatible: COMPATIBLE,
      securityCounter: 3,
      artifacts: [{ name: 'app', bytes: 1, sha256: 'a'.repeat(64), install: { kind: 'tree', compression: 'none' } }],
      ...changes,
    }),
  );

export type ThrowAway = {
  dir: string;
  keyring: Keyring;
  repository: Repository;
  ci: Signer;
  /** Wall time of the server; move it by assigning. */
  clock: { now: number };
  /** The newest metadata of CI. */
  document(): string | null;
  /** Publishes one manifest as CI and the server do; returns its bytes. */
  publish(version: string, bytes?: Buffer): Promise<Buffer>;
  reopen(): Promise<Repository>;
};

/** Its keys are its owner's. */
export const throwAway = async (ci: Signer = newSigner(), finished?: Finished, owner?: string): Promise<ThrowAway> => {
  const dir = await newFolder(finished);
  const clock = { now: NOW };
  const { keyring, repository } = await firstStart(dir, () => clock.now, owner);
  const open = () => openRepository({ dir: join(dir, 'tuf'), keyring, now: () => clock.now });
  await repository.delegateProduct(PRODUCT, [ci.key]);
  let document: string | null = null;
  let version = 0;
  return {
    dir,
    keyring,
    repository,
    ci,
    clock,
    document: () => document,
    publish: async (release, bytes = manifestOf(release)) => {
      const path = manifestPath(PRODUCT, release, COMPATIBLE);
      document = addManifests({
        document,
        product: PRODUCT,
        manifests: [{ path, bytes }],
        signer: ci,
        expires: clock.now + 365 * DAY_MS,
      });
      version += 1;
      await repository.putManifest(path, bytes);
      await repository.publishDelegation(PRODUCT, version, document);
      return bytes;
    },
    reopen: open,
  };
};
