/**
 * What a manifest must hold to when it is made and when it is published, beyond its form. Not where one is only read:
 * what was accepted once stays readable.
 */
import type { Manifest } from './manifest.ts';
import { openTreeMap } from './tree-map.ts';
import { versionFault } from './version-order.ts';

/** Every fault, as sentences; none when it may be published. */
export const manifestFaults = (manifest: Manifest): string[] => [
  ...[versionFault(manifest.version)].filter((fault) => fault !== undefined),
  ...emptyFaults(manifest),
  ...pathFaults(manifest),
  ...treeFaults(manifest),
];

/** Nothing at all boots, and an installer that does nothing with it would succeed. */
const emptyFaults = ({ artifacts }: Manifest): string[] =>
  artifacts
    .filter(({ bytes, install }) => bytes === 0 && (install.kind === 'image' || install.kind === 'delegate'))
    .map(
      ({ name, install }) =>
        `artifacts.${name}: ${install.kind === 'image' ? 'an image' : 'what an installer installs'} cannot be empty`,
    );

const pathFaults = ({ artifacts }: Manifest): string[] => {
  const map = openTreeMap();
  return artifacts.flatMap(({ name, bytes, install }) => {
    const fault = install.kind === 'file' ? map.file(install.path, bytes) : undefined;
    return fault === undefined ? [] : [`artifacts.${name}: ${fault}`];
  });
};

const treeFaults = ({ artifacts }: Manifest): string[] => {
  const trees = new Map<string, string>();
  return artifacts.flatMap(({ name, sha256, install }) => {
    const same = install.kind === 'tree' ? trees.get(sha256) : undefined;
    if (install.kind === 'tree') trees.set(sha256, name);
    return same === undefined
      ? []
      : [`artifacts.${name}: it is the same tree as ${same}, so every path of it comes twice`];
  });
};
