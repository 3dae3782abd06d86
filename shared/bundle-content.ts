/**
 * Whether what a bundle's artifacts hold fits into one slot, and is what its manifest says: so that nothing is
 * published that no device can install.
 */

import type { BundlePart } from './bundle-part.ts';
import type { Artifact, Manifest } from './manifest.ts';
import { accept, type Result, refuse } from './problems.ts';
import type { Lost } from './tree.ts';
import { openTreeMap, type TreeSize } from './tree-map.ts';
import { scanTree } from './tree-tar.ts';

export type ContentCheck = {
  /**
   * Artifacts in the manifest's order; `open` gives the bytes, where they are looked at. Refusal: `bundle-invalid`,
   * with the artifact's name.
   */
  artifact(
    artifact: Pick<Artifact, 'bytes' | 'install'> & { name: string },
    open: () => AsyncIterable<Uint8Array>,
  ): Promise<Result<TreeSize | null>>;
  /** After the last one. */
  end(manifest: Pick<Manifest, 'agent'>): Result<void>;
};

export const openContentCheck = (onLost: (lost: Lost) => void = () => undefined): ContentCheck => {
  const map = openTreeMap();
  return {
    artifact: async ({ name, bytes, install }, open) => {
      if (install.kind === 'file') {
        const fault = map.file(install.path, bytes);
        return fault === undefined ? accept(null) : refuse('bundle-invalid', `artifact ${name}: ${fault}`);
      }
      if (install.kind !== 'tree') return accept(null);
      const before = map.size();
      const scanned = await scanTree(open(), install.compression, map, onLost);
      if (!scanned.ok) return refuse(scanned.code, `artifact ${name}: ${scanned.detail}`);
      const after = map.size();
      const size = { bytes: after.bytes - before.bytes, entries: after.entries - before.entries };
      // As with images: nothing at all would be installed, and run by no one, with success.
      if (size.entries === 0) return refuse('bundle-invalid', `artifact ${name}: there is nothing in the tree`);
      const { unpacked } = install;
      if (unpacked === undefined || (unpacked.bytes === size.bytes && unpacked.entries === size.entries))
        return accept(size);
      return refuse(
        'bundle-invalid',
        `artifact ${name} unpacks to ${size.bytes} bytes in ${size.entries} entries; its manifest says ${unpacked.bytes} in ${unpacked.entries}`,
      );
    },
    end: ({ agent }) =>
      agent === undefined || map.hasFile(agent.path)
        ? accept(undefined)
        : refuse('bundle-invalid', `the agent's own file ${agent.path} is no file in any of the artifacts`),
  };
};

/** The artifact that a part of a bundle is; undefined for an attachment. */
export const artifactOf = (manifest: Manifest, part: Pick<BundlePart, 'kind' | 'name'>): Artifact | undefined =>
  part.kind === 'artifact' ? manifest.artifacts.find(({ name }) => name === part.name) : undefined;
