/**
 * What a slot holds when all trees and files of a bundle are in it, path by path: asked when a bundle is made and when
 * it is published, so that nothing is staged that no device can unpack. Pure; what the device's tree writer learns from
 * its file system is reckoned here.
 */
import { linkFault, pathFault } from './tree-path.ts';

export type TreeSize = { bytes: number; entries: number };

export type TreeMap = {
  /** Each returns what is wrong, as a sentence, or undefined. The root of the slot, '', is a folder. */
  folder(path: string): string | undefined;
  file(path: string, bytes: number): string | undefined;
  link(path: string, to: string): string | undefined;
  /** Folders that only a path below them names count too. */
  size(): TreeSize;
  /** Whether a file is there, or a link that may lead to one. */
  hasFile(path: string): boolean;
};

/** The path of a tar's entry: `./` in front and `/` at the end do not count. '' is the root. */
export const entryPath = (name: string): string => {
  const path = name.replace(/^(\.\/)+/, '').replace(/\/+$/, '');
  return path === '.' ? '' : path;
};

/** From outside, so it must not be long, nor act on a terminal. */
const quoted = (text: string): string => JSON.stringify(text.slice(0, 200));

export const openTreeMap = (): TreeMap => {
  const there = new Map<string, 'folder' | 'file' | 'link'>();
  let bytes = 0;
  let again = 0;

  const parents = (path: string): string | undefined => {
    for (let end = path.indexOf('/'); end !== -1; end = path.indexOf('/', end + 1)) {
      const parent = path.slice(0, end);
      const kind = there.get(parent) ?? 'folder';
      if (kind !== 'folder') return `${quoted(path)} lies under ${quoted(parent)}, which is a ${kind}`;
      there.set(parent, kind);
    }
    return undefined;
  };
  const add = (path: string, kind: 'folder' | 'file' | 'link'): string | undefined => {
    if (path === '') return kind === 'folder' ? undefined : `the root of the slot cannot be a ${kind}`;
    const fault = pathFault(path);
    if (fault !== undefined) return `the path ${quoted(path)} ${fault}`;
    const under = parents(path);
    if (under !== undefined) return under;
    const before = there.get(path);
    if (before === 'folder' && kind === 'folder') again += 1;
    else if (before !== undefined) return `${quoted(path)} comes twice: as a ${before} and as a ${kind}`;
    there.set(path, kind);
    return undefined;
  };

  return {
    folder: (path) => add(path, 'folder'),
    file: (path, size) => {
      bytes += size;
      return add(path, 'file');
    },
    link: (path, to) => {
      const fault = linkFault(path, to);
      return fault === undefined ? add(path, 'link') : `the symbolic link ${quoted(path)} -> ${quoted(to)} ${fault}`;
    },
    size: () => ({ bytes, entries: there.size + again }),
    hasFile: (path) => ['file', 'link'].includes(there.get(path) ?? ''),
  };
};
