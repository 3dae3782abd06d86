/**
 * A file system in memory that loses its power. Until it was flushed, what a file or folder has is only in memory: a
 * cut takes it in whole or in part, sector by sector, and of each folder's changes the newest first. Its whole state
 * can be taken and put back at any moment, and costs little.
 */
import { dirname, posix } from 'node:path';

const SECTOR_BYTES = 512;

/**
 * What of unflushed changes a power cut leaves. `torn`: half of them. `zeros`: a file is as long as it was, and what
 * was added to it is not there.
 */
export const LOSSES = ['nothing', 'everything', 'torn', 'zeros'] as const;
export type Loss = (typeof LOSSES)[number];

export type File = { kind: 'file'; bytes: Buffer; flushed: Buffer; mode: number };
type Link = { kind: 'link'; to: string };
/** `changes`: what is not flushed, in order; a rename is two entries that come together. */
export type Folder = {
  kind: 'folder';
  entries: Map<string, Node>;
  durable: Map<string, Node>;
  changes: [name: string, node: Node | undefined][][];
};
export type Node = File | Link | Folder;

export const refusal = (code: string, syscall: string, path: string): Error =>
  Object.assign(new Error(`${code}: ${syscall} '${path}'`), { code, syscall, path });

const folder = (): Folder => ({ kind: 'folder', entries: new Map(), durable: new Map(), changes: [] });

export type Volume = ReturnType<typeof openVolume>;

/**
 * Everything under `root`, an absolute path. Paths are absolute; links among them are followed as in any file system.
 */
export const openVolume = (root: string) => {
  let top = folder();

  /** The node at a path; of a link the node that it leads to, unless it is the last part and `last` is false. */
  const find = (path: string, syscall: string, last = true, depth = 0): Node => {
    if (depth > 20) throw refusal('ELOOP', syscall, path);
    let node: Node = top;
    let at = root;
    const parts = posix.normalize(path).slice(root.length).split('/').filter(Boolean);
    for (const [index, part] of parts.entries()) {
      if (node.kind !== 'folder') throw refusal('ENOTDIR', syscall, path);
      const next: Node | undefined = node.entries.get(part);
      if (next === undefined) throw refusal('ENOENT', syscall, path);
      at = `${at}/${part}`;
      const isLast = index === parts.length - 1;
      node =
        next.kind === 'link' && (last || !isLast)
          ? find(posix.resolve(dirname(at), next.to), syscall, true, depth + 1)
          : next;
    }
    return node;
  };
  const peek = (path: string, last = true): Node | undefined => {
    try {
      return find(path, 'stat', last);
    } catch {
      return undefined;
    }
  };
  const folderAt = (path: string, syscall: string): Folder => {
    const node = find(path, syscall);
    if (node.kind !== 'folder') throw refusal('ENOTDIR', syscall, path);
    return node;
  };
  const fileAt = (path: string, syscall: string): File => {
    const node = find(path, syscall);
    if (node.kind !== 'file') throw refusal(node.kind === 'folder' ? 'EISDIR' : 'EINVAL', syscall, path);
    return node;
  };
  const enter = (parent: Folder, changes: [string, Node | undefined][]): void => {
    for (const [name, node] of changes)
      if (node === undefined) parent.entries.delete(name);
      else parent.entries.set(name, node);
    parent.changes.push(changes);
  };
  const put = (file: File, bytes: Uint8Array, position: number): void => {
    const next = Buffer.alloc(Math.max(file.bytes.length, position + bytes.length));
    file.bytes.copy(next);
    next.set(bytes, position);
    file.bytes = next;
  };
  const add = (path: string, node: Node, syscall: string): void => {
    const parent = folderAt(dirname(path), syscall);
    if (parent.entries.has(posix.basename(path))) throw refusal('EEXIST', syscall, path);
    enter(parent, [[posix.basename(path), node]]);
  };
  const remove = (path: string): void => {
    enter(folderAt(dirname(path), 'rm'), [[posix.basename(path), undefined]]);
  };
  const rename = (from: string, to: string): void => {
    const [parent, target] = [folderAt(dirname(from), 'rename'), folderAt(dirname(to), 'rename')];
    const node = find(from, 'rename', false);
    const [gone, come]: [string, Node | undefined][] = [
      [posix.basename(from), undefined],
      [posix.basename(to), node],
    ];
    if (parent === target) return enter(parent, [gone!, come!]);
    enter(target, [come!]);
    enter(parent, [gone!]);
  };
  const makeFolder = (path: string): void => add(path, folder(), 'mkdir');
  const makeFolders = (path: string): void => {
    if (peek(path) !== undefined) return;
    makeFolders(dirname(path));
    makeFolder(path);
  };
  const flush = (node: Node): void => {
    if (node.kind === 'file') node.flushed = node.bytes;
    if (node.kind !== 'folder') return;
    node.durable = new Map(node.entries);
    node.changes = [];
  };
  const flushAll = (node: Node = top): void => {
    flush(node);
    if (node.kind === 'folder') for (const one of node.entries.values()) flushAll(one);
  };

  return {
    root,
    find,
    peek,
    folderAt,
    fileAt,
    put,
    add,
    remove,
    rename,
    makeFolder,
    makeFolders,
    flush,
    flushAll,
    newFile: (path: string, mode: number): File => {
      const file: File = { kind: 'file', bytes: Buffer.alloc(0), flushed: Buffer.alloc(0), mode };
      add(path, file, 'open');
      return file;
    },
    /** The power fails. */
    cut: (loss: Loss): void => {
      const settled = new Set<Node>();
      const settle = (node: Node): void => {
        if (settled.has(node)) return;
        settled.add(node);
        if (node.kind === 'file') {
          node.bytes = leftOf(node, loss);
          node.flushed = node.bytes;
        }
        if (node.kind !== 'folder') return;
        const kept = {
          nothing: 0,
          everything: node.changes.length,
          torn: node.changes.length >> 1,
          zeros: node.changes.length,
        };
        for (const change of node.changes.slice(0, kept[loss]))
          for (const [name, one] of change)
            if (one === undefined) node.durable.delete(name);
            else node.durable.set(name, one);
        node.entries = new Map(node.durable);
        node.changes = [];
        for (const one of node.entries.values()) settle(one);
      };
      settle(top);
    },
    /** All that there is, flushed or not. */
    save: (): (() => void) => {
      const saved = copyOf(top);
      return () => {
        top = copyOf(saved);
      };
    },
  };
};

/** All that can be reached. Bytes are never changed in place, so they are shared; a file with two names stays one. */
const copyOf = (top: Folder): Folder => {
  const copies = new Map<Node, Node>();
  const copy = (node: Node): Node => {
    const known = copies.get(node);
    if (known !== undefined) return known;
    const made = node.kind === 'folder' ? folder() : { ...node };
    copies.set(node, made);
    if (node.kind === 'folder' && made.kind === 'folder') fill(made, node);
    return made;
  };
  const copyAll = (entries: Map<string, Node>): Map<string, Node> =>
    new Map([...entries].map(([name, one]) => [name, copy(one)]));
  const fill = (made: Folder, { entries, durable, changes }: Folder): void => {
    made.entries = copyAll(entries);
    made.durable = copyAll(durable);
    made.changes = changes.map((change) => change.map(([name, one]) => [name, one && copy(one)]));
  };
  const made = folder();
  copies.set(top, made);
  fill(made, top);
  return made;
};

/** A disk writes whole sectors, in any order; a file system overwrites in place what was there before. */
const leftOf = ({ bytes, flushed }: File, loss: Loss): Buffer => {
  if (loss === 'everything' || bytes === flushed) return bytes;
  if (loss === 'nothing') return flushed;
  const changed: number[] = [];
  for (let at = 0; at < Math.max(bytes.length, flushed.length); at += SECTOR_BYTES)
    if (!bytes.subarray(at, at + SECTOR_BYTES).equals(flushed.subarray(at, at + SECTOR_BYTES))) changed.push(at);
  if (loss === 'zeros') {
    const left = Buffer.alloc(bytes.length);
    flushed.copy(left, 0, 0, Math.min(bytes.length, flushed.length));
    return left;
  }
  const written = changed.slice(0, changed.length >> 1);
  const end = written.length === 0 ? flushed.length : Math.min(bytes.length, written.at(-1)! + SECTOR_BYTES);
  const left = Buffer.alloc(Math.max(end, Math.min(flushed.length, bytes.length)));
  flushed.copy(left, 0, 0, Math.min(left.length, flushed.length));
  for (const at of written) bytes.copy(left, at, at, Math.min(bytes.length, at + SECTOR_BYTES));
  return left;
};
