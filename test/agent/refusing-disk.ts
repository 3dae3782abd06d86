/**
 * A folder on a real disk whose changes, one by one, can be refused: `node:fs` as this process uses it. An agent that
 * is run in this process cannot tell it from a disk that is full, read-only or broken.
 */
import { constants } from 'node:fs';
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { PassThrough } from 'node:stream';

type Call = (...args: unknown[]) => unknown;
type Builtin = Record<string, Call>;
type Handle = Record<string, Call>;

const builtin = createRequire(import.meta.url);
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the CommonJS view of the modules is the one that can be changed
const [promises, plain] = ['node:fs/promises', 'node:fs'].map(builtin) as [Builtin, Builtin];

/** Calls that change something, and at which of their arguments. */
const CHANGES: Record<string, number> = {
  mkdir: 0,
  rename: 0,
  rm: 0,
  chmod: 0,
  chown: 0,
  lchown: 0,
  lutimes: 0,
  writeFile: 0,
  link: 1,
  symlink: 1,
  copyFile: 1,
};
const OF_HANDLES = ['write', 'writev', 'writeFile', 'truncate', 'sync', 'datasync', 'chmod'];
/** What a full disk still takes. */
const SHRINKS = new Set(['rm', 'rename', 'chmod', 'chown', 'lchown', 'lutimes', 'sync', 'datasync', 'truncate']);
const FULL = new Set(['ENOSPC', 'EDQUOT']);

export type Refusing = {
  /** Every change so far, while nothing is refused. */
  changes: string[];
  /** From the change with this number on, until `heal`. */
  refuse(code: string, from: number): void;
  heal(): void;
  /** How many were refused. */
  refused(): number;
  unmount(): void;
};

/** One at a time in a process. */
export const mountRefusing = (root: string): Refusing => {
  const changes: string[] = [];
  const restores: (() => void)[] = [];
  let fault: { code: string; from: number } | undefined;
  let met = 0;
  let refused = 0;

  const isOurs = (path: unknown): path is string => typeof path === 'string' && path.startsWith(root);
  /** Throws where it is refused. */
  const change = (call: string, path: string): void => {
    changes.push(`${call} ${path.slice(root.length)}`);
    met += 1;
    if (fault === undefined || met <= fault.from) return;
    if (FULL.has(fault.code) && SHRINKS.has(call)) return;
    refused += 1;
    throw Object.assign(new Error(`${fault.code}: ${call} '${path}'`), { code: fault.code, syscall: call, path });
  };
  /** To make what is there, and to remove what is not, is nothing that a disk could refuse. */
  const isNoChange = async (call: string, path: string): Promise<boolean> => {
    if (call !== 'mkdir' && call !== 'rm') return false;
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- of node:fs/promises
    const isThere = await (promises['lstat']!(path) as Promise<unknown>).then(
      () => true,
      () => false,
    );
    return isThere === (call === 'mkdir');
  };
  const patch = (module: Builtin, name: string, make: (original: Call) => Call): void => {
    const original = module[name]!;
    module[name] = make(original);
    restores.push(() => void (module[name] = original));
  };
  const watch = (handle: Handle, path: string): Handle => {
    for (const name of OF_HANDLES) {
      const original = handle[name]!.bind(handle);
      handle[name] = async (...args) => {
        change(name, path);
        return original(...args);
      };
    }
    return handle;
  };

  for (const [name, at] of Object.entries(CHANGES))
    patch(promises, name, (original) => async (...args) => {
      const path = args[at];
      if (isOurs(path) && !(await isNoChange(name, path))) change(name, path);
      return original(...args);
    });
  patch(promises, 'open', (original) => async (path, flags = 'r', ...more) => {
    if (!isOurs(path)) return original(path, flags, ...more);
    const writes =
      typeof flags === 'string'
        ? /[wa+]/.test(flags)
        : (Number(flags) & (constants.O_WRONLY | constants.O_RDWR | constants.O_CREAT)) !== 0;
    if (writes) change('open', path);
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- what it resolves to
    return watch((await original(path, flags, ...more)) as Handle, path);
  });
  patch(promises, 'access', (original) => async (path, ...more) => {
    if (isOurs(path) && fault?.code === 'EROFS' && met > fault.from)
      throw Object.assign(new Error('EROFS'), { code: 'EROFS', syscall: 'access' });
    return original(path, ...more);
  });
  patch(plain, 'createWriteStream', (original) => (path, ...more) => {
    try {
      if (isOurs(path)) change('createWriteStream', path);
      return original(path, ...more);
    } catch (error) {
      return new PassThrough().destroy(error as Error);
    }
  });
  syncBuiltinESMExports();

  return {
    changes,
    refuse: (code, from) => {
      met = 0;
      refused = 0;
      fault = { code, from };
    },
    heal: () => {
      fault = undefined;
    },
    refused: () => refused,
    unmount: () => {
      for (const restore of restores.toReversed()) restore();
      syncBuiltinESMExports();
    },
  };
};
