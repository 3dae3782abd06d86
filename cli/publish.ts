/** What CI does with finished bundles: sign their manifests, upload them, publish. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { routes } from '#shared/api.ts';
import { artifactOf, openContentCheck } from '#shared/bundle-content.ts';
import type { BundlePart } from '#shared/bundle-part.ts';
import type { CompressedArtifact, LostOfArtifact } from '#shared/create-bundle.ts';
import { type Id, manifestPath, releaseRef, Sha256 } from '#shared/ids.ts';
import type { Manifest } from '#shared/manifest.ts';
import { readBundle } from '#shared/read-bundle.ts';
import type { RouteAnswer } from '#shared/route.ts';
import { compressedInside, compressedWarning } from '#shared/transfer/compressed-inside.ts';
import { addManifests } from '#shared/trust/delegation.ts';
import type { PublicKey } from '#shared/trust/keys.ts';
import type { Signer } from '#shared/trust/signers.ts';
import type { Client } from './client.ts';
import { CliFailure, EXIT, valueOf } from './failure.ts';
import { harmless, printError } from './terminal.ts';

/** Someone else published in between, or the connection broke: tries altogether. */
const ATTEMPTS_MAX = 5;

export type CheckedBundle = {
  file: string;
  bytes: number;
  sha256: Sha256;
  manifest: Manifest;
  manifestBytes: Buffer;
  compressed: CompressedArtifact[];
};

/** Reads a bundle as the server will, so that a bad one is refused before anything is sent. */
export const checkBundle = async (
  file: string,
  onProgress: (done: number, total: number) => void = () => {},
): Promise<CheckedBundle> => {
  const there = await stat(file).catch(() => undefined);
  if (there === undefined || !there.isFile()) throw new CliFailure(`${file} cannot be read`);
  const hash = createHash('sha256');
  let bytes = 0;
  async function* source(): AsyncGenerator<Uint8Array> {
    for await (const chunk of createReadStream(file)) {
      if (!Buffer.isBuffer(chunk)) continue;
      hash.update(chunk);
      bytes += chunk.length;
      onProgress(bytes, there?.size ?? bytes);
      yield chunk;
    }
  }
  const compressed: CompressedArtifact[] = [];
  const content = openContentCheck();
  let announced: Manifest | undefined;
  const look = async (part: BundlePart, body: AsyncIterable<Uint8Array>): Promise<void> => {
    const artifact = announced && artifactOf(announced, part);
    if (artifact === undefined) return;
    let head = Buffer.alloc(0);
    async function* withHead(): AsyncGenerator<Uint8Array> {
      for await (const piece of body) {
        if (head.length < HEAD_BYTES) head = Buffer.concat([head, piece.subarray(0, HEAD_BYTES)]);
        yield piece;
      }
    }
    valueOf(await content.artifact(artifact, withHead), file);
    if (head.length === 0) for await (const _ of withHead());
    const how = compressedInside(head);
    if (how !== undefined) compressed.push({ name: part.name, how });
  };
  const read = await readBundle(source(), { manifest: async (_, manifest) => void (announced = manifest), part: look });
  const { manifest, manifestBytes } = valueOf(read, file);
  valueOf(content.end(manifest), file);
  return { file, bytes, sha256: Sha256.parse(hash.digest('hex')), manifest, manifestBytes, compressed };
};

const HEAD_BYTES = 64;

/** On the error stream, so that what scripts read stays as it is. */
export const warnOfCompressed = ({ file, compressed }: { file: string; compressed: CompressedArtifact[] }): void => {
  for (const { name, how } of compressed) printError(`${file}: ${compressedWarning(name, how)}`);
};

/** What devices will not get, likewise. */
export const warnOfLost = ({ file, lost }: { file: string; lost: LostOfArtifact[] }): void => {
  for (const { artifact, what, files, first } of lost) {
    const more = files === 1 ? '' : ` and of ${files - 1} more`;
    printError(harmless(`${file}: ${artifact}: devices do not get ${what} of ${first}${more}`));
  }
};

export type PublishSteps = {
  checking(file: string): Promise<CheckedBundle>;
  sending(
    bundle: CheckedBundle,
    work: (onProgress: (done: number, total: number) => void) => Promise<void>,
  ): Promise<void>;
  /** A try that did not work and is made again. */
  again(why: string): void;
};

export type PublishInput = {
  files: string[];
  signer: Signer;
  /** The product's other CI keys: metadata that one of them signed may be built on too. */
  trusted?: PublicKey[];
  now: () => number;
};

type Release = RouteAnswer<typeof routes.releasePublish>;

/** Publishes the bundles of one release; they become one release or none. Refusals are thrown as CliFailure. */
export const publishRelease = async (client: Client, input: PublishInput, steps: PublishSteps): Promise<Release> => {
  const bundles: CheckedBundle[] = [];
  for (const file of input.files) bundles.push(await steps.checking(file));
  const { product, version } = bundles[0]!.manifest;
  const stranger = bundles.find(({ manifest }) => manifest.product !== product || manifest.version !== version);
  if (stranger !== undefined) {
    const { manifest, file } = stranger;
    const found = releaseRef(manifest.product, manifest.version);
    throw new CliFailure(
      `${file} is of ${found}, not of ${releaseRef(product, version)}: publish one release at a time`,
    );
  }
  // Asked first, because it tells before any upload whether the server is there, knows us, and knows the product.
  await fetchDelegation(client, product, input.signer);
  for (const bundle of bundles) await upload(client, bundle, steps);
  for (let attempt = 1; ; attempt += 1) {
    const metadata = await signNext(client, bundles, input);
    try {
      const body = { uploads: bundles.map(({ sha256 }) => sha256), metadata };
      return await client.call(routes.releasePublish, { body });
    } catch (error) {
      const conflict = error instanceof CliFailure && error.problem?.code === 'metadata-version-conflict';
      if (!conflict || attempt === ATTEMPTS_MAX) throw error;
      steps.again('someone else published in between: signing again');
      await pause(100 * 2 ** attempt * (0.5 + Math.random()));
    }
  }
};

const fetchDelegation = async (client: Client, product: Id, signer: Signer) => {
  const delegation = await client.call(routes.productDelegation, { params: { product } });
  if (!delegation.keys.includes(signer.keyId)) {
    const known = delegation.keys.map((key) => key.slice(0, 16)).join(', ');
    printError(`This key (${signer.keyId.slice(0, 16)}) is not delegated for ${product} (${known}): expect a refusal.`);
  }
  return delegation;
};

const signNext = async (client: Client, bundles: CheckedBundle[], input: PublishInput) => {
  const { product } = bundles[0]!.manifest;
  const delegation = await client.call(routes.productDelegation, { params: { product } });
  const manifests = bundles.map(({ manifest, manifestBytes }) => ({
    path: manifestPath(manifest.product, manifest.version, manifest.compatible),
    bytes: manifestBytes,
  }));
  try {
    const { document, expiresInMs } = delegation;
    const { signer, now, trusted = [] } = input;
    return addManifests({ document, product, manifests, signer, trusted, expires: now() + expiresInMs });
  } catch (error) {
    // It refuses to sign over what is there already, or to build on what no one we trust has signed.
    throw new CliFailure(`Not signed: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
};

/** An upload is named by its digest, so it can be sent again as often as it takes. */
const upload = async (client: Client, bundle: CheckedBundle, steps: PublishSteps): Promise<void> => {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const file = { path: bundle.file, bytes: bundle.bytes };
      await steps.sending(bundle, async (onProgress) => {
        await client.send(routes.uploadPut, { params: { sha256: bundle.sha256 } }, file, onProgress);
      });
      return;
    } catch (error) {
      const broken = error instanceof CliFailure && error.exitCode === EXIT.unreachable && error.problem === undefined;
      if (!broken || attempt === ATTEMPTS_MAX) throw error;
      steps.again(error.message);
      await pause(250 * 2 ** attempt * (0.5 + Math.random()));
    }
  }
};
