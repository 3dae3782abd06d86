/** The folder of metadata files: `<version>.<role>.json`, and `timestamp.json`. */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { RoleName } from '#shared/trust/tuf.ts';

const FILE = /^([1-9]\d{0,14})\.([^.]+)\.json$/;
const isFile = (name: string): boolean => RoleName.safeParse(FILE.exec(name)?.[2]).success;
const TIMESTAMP_FILE = 'timestamp.json';

export type MetadataFiles = {
  read(role: string, version: number): Promise<string | undefined>;
  write(role: string, version: number, text: string): Promise<void>;
  readTimestamp(): Promise<string | undefined>;
  writeTimestamp(text: string): Promise<void>;
  /** By name; undefined for what is not a name of metadata. */
  readNamed(name: string): Promise<Buffer | undefined>;
  /** The highest version of the role that any file here has or had; 0 when there is none. */
  newest(role: string): number;
  roles(): string[];
  /**
   * Removes all but the newest `keep` versions of each role; never the `current` one, nor root metadata, which clients
   * walk through from the first.
   */
  prune(keep: number, current: Map<string, number>): Promise<void>;
};

export const openMetadataFiles = async (dir: string): Promise<MetadataFiles> => {
  await mkdir(dir, { recursive: true });
  const versions = new Map<string, Set<number>>();
  const note = (role: string, version: number): void => {
    versions.set(role, (versions.get(role) ?? new Set()).add(version));
  };
  for (const name of await readdir(dir)) {
    const [, version, role] = FILE.exec(name) ?? [];
    if (version !== undefined && role !== undefined && isFile(name)) note(role, Number(version));
    else if (name.endsWith('.tmp')) await rm(join(dir, name)); // of a write that a crash cut off
  }
  const fileOf = (role: string, version: number): string => {
    const name = `${version}.${role}.json`;
    if (!isFile(name)) throw new Error(`${JSON.stringify(name)} cannot be the name of metadata`);
    return join(dir, name);
  };
  return {
    read: async (role, version) => (await readFileIfThere(fileOf(role, version)))?.toString(),
    write: async (role, version, text) => {
      note(role, version); // first: a write that failed may have left something
      await writeFileDurably(fileOf(role, version), text);
    },
    readTimestamp: async () => (await readFileIfThere(join(dir, TIMESTAMP_FILE)))?.toString(),
    writeTimestamp: (text) => writeFileDurably(join(dir, TIMESTAMP_FILE), text),
    readNamed: async (name) => (name === TIMESTAMP_FILE || isFile(name) ? readFileIfThere(join(dir, name)) : undefined),
    newest: (role) => Math.max(0, ...(versions.get(role) ?? [])),
    roles: () => [...versions.keys()],
    prune: async (keep, current) => {
      for (const [role, all] of versions) {
        if (role === 'root') continue;
        for (const version of [...all].sort((a, b) => b - a).slice(keep)) {
          if (version === current.get(role)) continue; // many failed writes after it may have used up the newer versions
          await rm(fileOf(role, version), { force: true });
          all.delete(version);
        }
      }
    },
  };
};
