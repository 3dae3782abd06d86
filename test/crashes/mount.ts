/**
 * Puts a volume under a path of this process: `node:fs`, as far as the agent uses it, and the few programs that the
 * agent runs on it. Each change is announced before it happens, and may never happen.
 */
import { EventEmitter, once } from 'node:events';
import { constants } from 'node:fs';
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { basename, dirname } from 'node:path';
import { Duplex, PassThrough, Readable } from 'node:stream';
import { never } from '#test/simulation/world.ts';
import { type File, type Node, openVolume, refusal, type Volume } from './volume.ts';

/** `durable`: what was written before is on the disk once this is done. */
export type Step = { call: string; path: string; durable: boolean };

/**
 * `full`: nothing grows. `tight`: nothing by more than a block, and there seems to be room. `broken`: nothing can be
 * written or flushed. `read-only`: nothing can be changed.
 */
export type Disk = 'well' | 'full' | 'tight' | 'broken' | 'read-only';
const BLOCK_BYTES = 4096;
const REFUSES: Partial<Record<Disk, string>> = { broken: 'EIO', 'read-only': 'EROFS' };

/** What uses the volume now. */
export type User = {
  isDead(): boolean;
  /** Before each change; true: the process dies here, and the change does not happen. */
  step(step: Step): boolean;
  disk(): Disk;
  /** Its flushes of this file are lies: a bug that is planted. */
  forgets(path: string): boolean;
  /** The disk writes something else there. */
  spoils(path: string): boolean;
  /** A program is run. Undefined: it never ends. */
  run(command: string[]): Promise<Ran> | undefined;
  /** The same for a caller that cannot wait. */
  runSync: (command: string[]) => string;
};
export type Ran = { code: number; stdout: string; stderr: string };

const builtin = createRequire(import.meta.url);
type Builtin = Record<string, (...args: never[]) => unknown>;
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the CommonJS view of the modules is the one that can be changed
const [promises, plain, programs] = ['node:fs/promises', 'node:fs', 'node:child_process'].map(builtin) as Builtin[];

export const IDLE: User = {
  isDead: () => false,
  step: () => false,
  disk: () => 'well',
  forgets: () => false,
  spoils: () => false,
  run: () => undefined,
  runSync: () => '',
};

export type Mounted = {
  volume: Volume;
  attach: (user: User) => void;
  unmount: () => void;
};

/** One at a time in a thread. */
export const mountVolume = (root: string, names: readonly string[]): Mounted => {
  const volume = openVolume(root);
  let user = IDLE;
  const isOurs = (path: unknown): path is string =>
    typeof path === 'string' && (path === root || path.startsWith(`${root}/`));
  const calls = callsOf(volume, () => user);
  const restores: (() => void)[] = [];
  const patch = (
    module: Builtin,
    name: string,
    make: (original: (...args: never[]) => unknown) => (...args: never[]) => unknown,
  ): void => {
    const original = module[name]!;
    module[name] = make(original);
    restores.push(() => void (module[name] = original));
  };
  for (const [name, call] of Object.entries(calls.promises))
    patch(
      promises!,
      name,
      (original) =>
        (...args) =>
          isOurs(args[0]) ? call(...args) : original(...args),
    );
  for (const [name, call] of Object.entries(calls.plain))
    patch(
      plain!,
      name,
      (original) =>
        (...args) =>
          isOurs(args[0]) ? call(...args) : original(...args),
    );
  const isProgram = (command: unknown): boolean => typeof command === 'string' && names.includes(command);
  patch(
    programs!,
    'spawn',
    (original) =>
      (...args) =>
        isProgram(args[0]) ? spawned(user, args) : original(...args),
  );
  patch(
    programs!,
    'execFile',
    (original) =>
      (...args) =>
        isProgram(args[0]) ? executed(user, args) : original(...args),
  );
  patch(
    programs!,
    'execFileSync',
    (original) =>
      (...args) =>
        isProgram(args[0]) ? user.runSync([String(args[0]), ...((args[1] ?? []) as string[])]) : original(...args),
  );
  // This machine's devices and processes are none of the simulated one's.
  patch(
    promises!,
    'readFile',
    (original) =>
      (...args) =>
        (args[0] as unknown) === '/proc/self/mountinfo' ? Promise.resolve('') : original(...args),
  );
  patch(
    promises!,
    'readdir',
    (original) =>
      (...args) =>
        ['/sys/block', '/proc'].includes(args[0] as unknown as string) ? Promise.resolve([]) : original(...args),
  );
  syncBuiltinESMExports();
  return {
    volume,
    attach: (next) => {
      user = next;
    },
    unmount: () => {
      for (const restore of restores.toReversed()) restore();
      syncBuiltinESMExports();
    },
  };
};

/** No process ever has it, so that a signal to it finds no one. */
const PID = 2 ** 31 - 1;

/** A child process as far as the agent looks at one. */
const spawned = (user: User, [word, words]: unknown[]): object => {
  const child = Object.assign(new EventEmitter(), {
    pid: PID,
    exitCode: null as number | null,
    signalCode: null,
    stdout: new PassThrough(),
    stderr: new PassThrough(),
  });
  const end = async ({ code, stdout, stderr }: Ran): Promise<void> => {
    child.exitCode = code;
    const read = [child.stdout, child.stderr].map((pipe) => once(pipe, 'close'));
    child.stdout.end(stdout);
    child.stderr.end(stderr);
    child.emit('exit', code, null);
    await Promise.all(read);
    child.emit('close', code, null);
  };
  void user.run([String(word), ...(words as string[])])?.then(end);
  return child;
};

const executed = (user: User, [word, words, , done]: unknown[]): void => {
  void tell(user.run([String(word), ...(words as string[])]), done as Done);
};
type Done = (error: Error | null, stdout: string, stderr: string) => void;
const tell = async (running: Promise<Ran> | undefined, done: Done): Promise<void> => {
  if (running === undefined) return;
  const { code, stdout, stderr } = await running;
  done(code === 0 ? null : Object.assign(new Error('it failed'), { code }), stdout, stderr);
};

type Call = (...args: never[]) => unknown;

const callsOf = (volume: Volume, user: () => User): { promises: Record<string, Call>; plain: Record<string, Call> } => {
  const look = async <T>(act: () => T): Promise<T> => (user().isDead() ? never() : act());
  const change = async <T>(step: Step, bytes: number, act: () => T): Promise<T> => {
    const now = user();
    if (now.isDead() || now.step(step) || now.isDead()) return never();
    const disk = now.disk();
    if (REFUSES[disk] !== undefined) throw refusal(REFUSES[disk], step.call, step.path);
    if (disk !== 'well' && bytes > (disk === 'full' ? 0 : BLOCK_BYTES)) throw refusal('ENOSPC', step.call, step.path);
    return act();
  };
  /** What is no step of its own, and all the same not possible there. */
  const touch = async <T>(call: string, path: string, act: () => T): Promise<T> => {
    if (user().disk() === 'read-only') throw refusal('EROFS', call, path);
    return look(act);
  };
  const soft = (call: string, path: string): Step => ({ call, path, durable: false });

  const handleOf = (path: string, node: Node, appends: boolean) => {
    let position = 0;
    const file = (): File => (node.kind === 'file' ? node : volume.fileAt(path, 'write'));
    const write = (bytes: Uint8Array, at: number | null): number => {
      const start = at ?? (appends ? file().bytes.length : position);
      const spoilt = user().spoils(path)
        ? Uint8Array.from(bytes, (byte, index) => (index === 0 ? byte ^ 1 : byte))
        : bytes;
      volume.put(file(), spoilt, start);
      if (at === null) position = start + bytes.length;
      return bytes.length;
    };
    const flush = (call: string) => (): Promise<void> =>
      change({ call, path, durable: true }, 0, () => (user().forgets(path) ? undefined : volume.flush(node)));
    return {
      fd: -1,
      stat: () => look(() => statOf(node)),
      read: (into: Uint8Array, offset: number, length: number, at: number | null) =>
        look(() => {
          const start = at ?? position;
          const bytesRead = file().bytes.copy(into, offset, start, start + length);
          if (at === null) position += bytesRead;
          return { bytesRead, buffer: into };
        }),
      write: (bytes: Uint8Array, offset: number, length: number, at: number | null = null) =>
        change(soft('write', path), length, () => ({
          bytesWritten: write(bytes.subarray(offset, offset + length), at),
        })),
      writev: (pieces: Uint8Array[]) => {
        const bytes = Buffer.concat(pieces);
        return change(soft('write', path), bytes.length, () => ({ bytesWritten: write(bytes, null) }));
      },
      writeFile: (data: string | Uint8Array) =>
        change(soft('write', path), data.length, () => void write(Buffer.from(data), null)),
      truncate: (length = 0) =>
        change(soft('truncate', path), 0, () => {
          file().bytes = Buffer.concat([file().bytes.subarray(0, length)], length);
        }),
      chmod: (mode: number) => touch('fchmod', path, () => void (file().mode = mode)),
      sync: flush('fsync'),
      datasync: flush('fdatasync'),
      close: () => look(() => undefined),
    };
  };

  const open = async (path: string, flags: string | number = 'r', mode = 0o666) => {
    if (typeof flags === 'number' && (flags & constants.O_DIRECT) !== 0) throw refusal('EINVAL', 'open', path);
    const creates = typeof flags === 'string' ? /[wa]/.test(flags) : (flags & constants.O_CREAT) !== 0;
    const known = volume.peek(path);
    const writes =
      typeof flags === 'string' ? /[wa+]/.test(flags) : (flags & (constants.O_RDWR | constants.O_WRONLY)) !== 0;
    const reach = writes ? touch : <T>(_call: string, _path: string, act: () => T) => look(act);
    if (!creates || (known !== undefined && typeof flags === 'number'))
      return reach('open', path, () => handleOf(path, volume.find(path, 'open'), false));
    const words = String(flags);
    if (known !== undefined && words.includes('x')) return look(() => Promise.reject(refusal('EEXIST', 'open', path)));
    if (known !== undefined && !words.includes('w')) return touch('open', path, () => handleOf(path, known, true));
    return change(soft('create', path), known === undefined ? 1 : 0, () => {
      const file = known ?? volume.newFile(path, mode);
      if (file.kind === 'file') file.bytes = Buffer.alloc(0);
      return handleOf(path, file, words.includes('a'));
    });
  };
  const readdir = (path: string, options?: { withFileTypes?: boolean }) =>
    look(() =>
      [...volume.folderAt(path, 'scandir').entries].map(([name, node]) =>
        options?.withFileTypes === true ? { name, parentPath: path, ...kindOf(node) } : name,
      ),
    );
  const readFile = (path: string, options?: string | { encoding?: string }) =>
    look(() => {
      const bytes = Buffer.from(volume.fileAt(path, 'open').bytes);
      const encoding = typeof options === 'string' ? options : options?.encoding;
      return encoding === undefined ? bytes : bytes.toString(encoding as BufferEncoding);
    });
  const removeAll = async (path: string): Promise<void> => {
    const node = volume.peek(path, false);
    if (node?.kind === 'folder') for (const name of node.entries.keys()) await removeAll(`${path}/${name}`);
    if (node !== undefined) await change(soft('unlink', path), 0, () => volume.remove(path));
  };
  const writeFile = async (path: string, data: string | Uint8Array) => {
    const handle = await open(path, 'w');
    await handle.writeFile(data);
    await handle.close();
  };
  return {
    promises: {
      open,
      readdir,
      readFile,
      writeFile,
      access: (path: string) => look(() => void volume.find(path, 'access')),
      stat: (path: string) => look(() => statOf(volume.find(path, 'stat'))),
      lstat: (path: string) => look(() => statOf(volume.find(path, 'lstat', false))),
      realpath: (path: string) => look(() => (volume.find(path, 'realpath'), path)),
      readlink: (path: string) => look(() => linkAt(volume, path)),
      statfs: () => look(() => ({ bavail: user().disk() === 'full' ? 0 : 1_000_000, bsize: 4096 })),
      chmod: (path: string, mode: number) =>
        touch('chmod', path, () => {
          const node = volume.find(path, 'chmod');
          if (node.kind === 'file') node.mode = mode;
        }),
      mkdir: async (path: string, options?: { recursive?: boolean }) => {
        if (options?.recursive === true && volume.peek(path) !== undefined) return look(() => undefined);
        return change(soft('mkdir', path), 1, () =>
          options?.recursive === true ? volume.makeFolders(path) : volume.makeFolder(path),
        );
      },
      mkdtemp: async (prefix: string) => {
        const path = `${prefix}${[...volume.folderAt(dirname(prefix), 'mkdtemp').entries.keys()].length}`;
        await change(soft('mkdir', path), 1, () => volume.makeFolder(path));
        return path;
      },
      symlink: (to: string, path: string) =>
        change(soft('symlink', path), 1, () => volume.add(path, { kind: 'link', to }, 'symlink')),
      link: (from: string, path: string) =>
        change(soft('link', path), 1, () => volume.add(path, volume.fileAt(from, 'link'), 'link')),
      rename: (from: string, to: string) => change(soft('rename', to), 0, () => volume.rename(from, to)),
      rm: async (path: string, options?: { recursive?: boolean; force?: boolean }) => {
        if (volume.peek(path, false) === undefined) {
          if (options?.force === true) return look(() => undefined);
          throw refusal('ENOENT', 'rm', path);
        }
        return removeAll(path);
      },
    },
    plain: {
      createReadStream: (path: string) => Readable.from(piecesOf(volume, path)),
      createWriteStream: (path: string) => {
        const opened = open(path, 'w');
        return Duplex.from(async (pieces: AsyncIterable<Buffer>) => {
          const handle = await opened;
          for await (const piece of pieces) await handle.writeFile(piece);
          await handle.sync();
        });
      },
    },
  };
};

function* piecesOf(volume: Volume, path: string): Generator<Buffer> {
  yield Buffer.from(volume.fileAt(path, 'open').bytes);
}

const linkAt = (volume: Volume, path: string): string => {
  const node = volume.find(path, 'readlink', false);
  if (node.kind !== 'link') throw refusal('EINVAL', 'readlink', basename(path));
  return node.to;
};

const kindOf = (node: Node) => ({
  isFile: () => node.kind === 'file',
  isDirectory: () => node.kind === 'folder',
  isSymbolicLink: () => node.kind === 'link',
  isBlockDevice: () => false,
});
const statOf = (node: Node) => ({
  ...kindOf(node),
  size: node.kind === 'file' ? node.bytes.length : 0,
  mode: node.kind === 'file' ? node.mode : 0o755,
  dev: 1,
  mtimeMs: 0,
});
