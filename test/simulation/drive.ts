/**
 * The file systems of the simulated devices, in memory, behind `node:fs/promises`: the agent's real journal, download
 * and floor files run on them unchanged. What was not flushed before the power failed is lost, in whole or in part; a
 * rename or a new file is only there again when its folder was flushed. Paths outside of `/simulated` go to the real
 * one.
 */
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { dirname } from 'node:path';
import { Readable } from 'node:stream';
import type { Random } from './random.ts';
import type { Process } from './time.ts';
import { never } from './world.ts';

/** `flushed` is what is there after the power failed. */
type Inode = { bytes: Buffer; flushed: Buffer };
type Entry = { path: string; inode: Inode | undefined };

/** What happens around each operation of a device's drive. */
type DriveFaults = {
  process: Process;
  /** Before and after what changes something. */
  maybeCrash(): boolean;
  isFull(): boolean;
  latency(): Promise<void>;
};

export type Drive = {
  folder: string;
  attach(faults: DriveFaults): void;
  /** The power fails. */
  cut(random: Random): void;
  /** Something flips a bit of this file. */
  damage(name: string, random: Random): boolean;
};

export type Drives = { open(name: string, options: { forgets: boolean }): Drive; unmount(): void };

const ROOT = '/simulated/';
const builtin = createRequire(import.meta.url);
type Builtin = Record<string, (...args: never[]) => unknown>;
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the CommonJS view of the modules is the one that can be changed
const [promises, plain] = [builtin('node:fs/promises') as Builtin, builtin('node:fs') as Builtin];

const refusal = (code: string, syscall: string, path: string): Error =>
  Object.assign(new Error(`${code}: ${syscall} '${path}'`), { code, syscall, path });

/** Takes the calls under `/simulated` over until `unmount`. One simulation at a time in a thread. */
export const mountDrives = (): Drives => {
  const drives = new Map<string, ReturnType<typeof openVolume>>();
  const volumeOf = (path: unknown): ReturnType<typeof openVolume> | undefined => {
    if (typeof path !== 'string' || !path.startsWith(ROOT)) return undefined;
    return drives.get(path.slice(ROOT.length).split('/')[0]!);
  };
  const names = ['open', 'readFile', 'readdir', 'rename', 'rm', 'mkdir', 'stat', 'statfs'] as const;
  const real = names.map((name) => [name, promises[name]!] as const);
  const realStream = plain['createReadStream']!;
  for (const [name, original] of real)
    promises[name] = (...args: unknown[]) => {
      const volume = volumeOf(args[0]);
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- handed on as they came
      return volume === undefined ? original(...(args as never[])) : volume.call(name, args);
    };
  plain['createReadStream'] = (...args: unknown[]) => {
    const volume = volumeOf(args[0]);
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- handed on as they came
    return volume === undefined ? realStream(...(args as never[])) : Readable.from(volume.pieces(String(args[0])));
  };
  syncBuiltinESMExports();
  return {
    open: (name, options) => {
      const volume = openVolume(`${ROOT}${name}`, options.forgets);
      drives.set(name, volume);
      return volume.drive;
    },
    unmount: () => {
      for (const [name, original] of real) promises[name] = original;
      plain['createReadStream'] = realStream;
      syncBuiltinESMExports();
    },
  };
};

/** `forgets`: it says that it has flushed, and has not. */
const openVolume = (folder: string, forgets: boolean) => {
  let faults: DriveFaults | undefined;
  let there = new Map<string, Inode>();
  let durable = new Map<string, Inode>();
  let unflushed: Entry[] = [];

  /** Each change takes time, the power may fail before or after it, and the drive may be full. */
  const change = async <T>(grows: string | false, act: () => T): Promise<T> => {
    const around = faults;
    if (around === undefined || around.process.dead) return never();
    await around.latency();
    if (around.process.dead || around.maybeCrash()) return never();
    if (grows !== false && around.isFull()) throw refusal('ENOSPC', grows, folder);
    const result = act();
    return around.maybeCrash() ? never() : result;
  };
  const look = async <T>(act: () => T): Promise<T> => (faults === undefined || faults.process.dead ? never() : act());
  const found = (path: string, syscall: string): Inode => {
    const inode = there.get(path);
    if (inode === undefined) throw refusal('ENOENT', syscall, path);
    return inode;
  };
  const enter = (path: string, inode: Inode | undefined): void => {
    if (inode === undefined) there.delete(path);
    else there.set(path, inode);
    unflushed.push({ path, inode });
  };
  const settle = (entries: Entry[]): void => {
    for (const { path, inode } of entries)
      if (inode === undefined) durable.delete(path);
      else durable.set(path, inode);
  };
  const flushFolder = (path: string): void => {
    if (forgets) return;
    settle(unflushed.filter((entry) => dirname(entry.path) === path));
    unflushed = unflushed.filter((entry) => dirname(entry.path) !== path);
  };
  const flush = (inode: Inode): void => {
    if (!forgets) inode.flushed = Buffer.from(inode.bytes);
  };
  const put = (inode: Inode, bytes: Uint8Array, position: number): void => {
    const length = Math.max(inode.bytes.length, position + bytes.length);
    const next = Buffer.alloc(length);
    inode.bytes.copy(next);
    next.set(bytes, position);
    inode.bytes = next;
  };

  const handleOf = (path: string, inode: Inode | undefined) => {
    let position = 0;
    const file = (): Inode => inode ?? found(path, 'open');
    const append = (bytes: Uint8Array): void => {
      put(file(), bytes, Math.max(position, file().bytes.length));
      position = file().bytes.length;
    };
    return {
      stat: () => look(() => ({ size: file().bytes.length })),
      write: (bytes: Uint8Array, offset: number, length: number, at: number) =>
        change('write', () => {
          put(file(), bytes.subarray(offset, offset + length), at);
          return { bytesWritten: length };
        }),
      writev: (pieces: Uint8Array[]) =>
        change('writev', () => {
          const all = Buffer.concat(pieces);
          append(all);
          return { bytesWritten: all.length };
        }),
      writeFile: (data: string | Uint8Array) => change('write', () => append(Buffer.from(data))),
      truncate: (length: number) =>
        change(false, () => {
          file().bytes = Buffer.concat([file().bytes.subarray(0, length)], length);
        }),
      datasync: () => change(false, () => flush(file())),
      sync: () => change(false, () => (inode === undefined ? flushFolder(path) : flush(inode))),
      close: () => look(() => undefined),
    };
  };

  const openFile = (path: string, flags: string): Promise<ReturnType<typeof handleOf>> => {
    // A folder is opened only to be flushed.
    if (flags === 'r' && !there.has(path)) return look(() => handleOf(path, undefined));
    if (flags === 'r' || flags === 'r+') return look(() => handleOf(path, found(path, 'open')));
    return change('open', () => {
      const known = there.get(path);
      if (known !== undefined && flags === 'wx') throw refusal('EEXIST', 'open', path);
      if (known !== undefined && flags === 'w') known.bytes = Buffer.alloc(0);
      const inode = known ?? { bytes: Buffer.alloc(0), flushed: Buffer.alloc(0) };
      if (known === undefined) enter(path, inode);
      return handleOf(path, inode);
    });
  };
  const calls: Record<string, (args: string[]) => Promise<unknown>> = {
    open: ([path, flags]) => openFile(path!, flags ?? 'r'),
    readFile: ([path]) => look(() => Buffer.from(found(path!, 'open').bytes)),
    readdir: ([path]) =>
      look(() => [...there.keys()].filter((one) => dirname(one) === path).map((one) => one.slice(path!.length + 1))),
    stat: ([path]) => look(() => ({ size: found(path!, 'stat').bytes.length })),
    // A drive is full where a write says so.
    statfs: () => look(() => ({ bavail: 2 ** 30, bsize: 1 })),
    mkdir: () => look(() => undefined),
    rename: ([from, to]) =>
      change(false, () => {
        const inode = found(from!, 'rename');
        enter(to!, inode);
        enter(from!, undefined);
      }),
    rm: ([path]) =>
      change(false, () => {
        for (const one of there.keys()) if (one === path || one.startsWith(`${path}/`)) enter(one, undefined);
      }),
  };

  const drive: Drive = {
    folder,
    attach: (next) => {
      faults = next;
    },
    cut: (random) => {
      // In each folder what was done first survives first.
      for (const name of new Set(unflushed.map(({ path }) => dirname(path)))) {
        const entries = unflushed.filter(({ path }) => dirname(path) === name);
        settle(entries.slice(0, random.between(0, entries.length)));
      }
      unflushed = [];
      for (const inode of new Set(durable.values())) {
        if (inode.bytes.equals(inode.flushed)) continue;
        const kept = random.between(0, inode.bytes.length);
        inode.flushed = Buffer.concat([inode.bytes.subarray(0, kept), inode.flushed.subarray(kept)]);
        inode.bytes = Buffer.from(inode.flushed);
      }
      there = new Map(durable);
    },
    damage: (name, random) => {
      const inode = there.get(`${folder}/${name}`);
      if (inode === undefined || inode.bytes.length < 2) return false;
      // Not at its end, which would be a torn record and no damage.
      const at = random.between(0, Math.floor(inode.bytes.length / 2));
      inode.bytes = Buffer.from(inode.bytes);
      inode.bytes[at] = inode.bytes[at]! ^ 0x11;
      inode.flushed = inode.bytes;
      return true;
    },
  };
  const call = (name: string, args: unknown[]): Promise<unknown> =>
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- paths and flags; options are ignored
    calls[name]!(args as string[]);
  return { drive, call, pieces: (path: string): Buffer[] => [Buffer.from(found(path, 'open').bytes)] };
};
