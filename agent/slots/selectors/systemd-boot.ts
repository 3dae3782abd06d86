/**
 * systemd-boot's counting: `sluice-b+3.conf` becomes `sluice-b+2-1.conf` before it boots, and with `+0` comes last.
 * Among the others the greatest `version` is first, so each activation gives its entry the next one. `sluice-b.conf` is
 * committed. The folder is on FAT, where replacing a file by a rename is not one step: every change here makes a new
 * name first and removes an old one after.
 */
import { access, constants, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { other, type SlotName } from '#agent/domain/slots.ts';
import { errorCode } from '#agent/process/system-error.ts';
import { readFileIfThere, syncFolder } from '#shared/durable.ts';
import { createFile } from './boot-files.ts';
import { type FitnessProblem, type ImageSelection, type ImageSelector, SelectorFailed, TRIES_MAX } from './selector.ts';

export type SystemdBootOptions = {
  entries: string;
  /** An entry for each slot, but for `sort-key` and `version`. */
  templates: Record<SlotName, string>;
};

type Entry = { name: string; slot: SlotName /** Null: it is not counted. */; left: number | null; version: number };

const ENTRY = /^sluice-([ab])(?:\+(\d+)(?:-\d+)?)?\.conf$/;

/** `sluice-b+2-1.conf`; undefined for what is not ours. */
export const parseEntryName = (name: string): { slot: SlotName; left: number | null } | undefined => {
  const [, letter, left] = ENTRY.exec(name) ?? [];
  if (letter !== 'a' && letter !== 'b') return undefined;
  return { slot: letter, left: left === undefined ? null : Number(left) };
};

/** Undefined for an entry that was cut while it was made: the boot loader does not show it either. */
const versionOf = (content: string): number | undefined => {
  const [, digits] = /^version\s+(\d{1,15})\s*$/m.exec(content) ?? [];
  return digits === undefined ? undefined : Number(digits);
};

const makeEntry = (template: string, version: number): string => {
  const kept = template.split('\n').filter((line) => line.trim() !== '' && !/^(version|sort-key)\s/.test(line));
  return `${[...kept, 'sort-key sluice', `version ${version}`].join('\n')}\n`;
};

/** Undefined when nothing is committed. */
const selectionOf = (entries: Omit<Entry, 'name'>[]): ImageSelection | undefined => {
  const committed = entries.filter(({ left }) => left === null).sort((one, two) => two.version - one.version);
  const active = committed[0]?.slot;
  if (active === undefined) return undefined;
  const standby = entries.filter(({ slot }) => slot === other(active));
  const counted = standby.filter(({ left }) => left !== null).map(({ left }) => left ?? 0);
  const onTrial = counted.length > 0 && standby.every(({ left }) => left !== null);
  return { active, trial: onTrial ? { slot: other(active), triesLeft: Math.min(...counted) } : null };
};

export const openSystemdBootSelector = (options: SystemdBootOptions): ImageSelector => {
  const { entries: folder } = options;

  const load = async (): Promise<{ entries: Entry[]; selection: ImageSelection }> => {
    try {
      const entries: Entry[] = [];
      for (const name of await readdir(folder)) {
        const parsed = parseEntryName(name);
        const version = parsed === undefined ? undefined : versionOf(await readFile(join(folder, name), 'utf8'));
        if (parsed !== undefined && version !== undefined) entries.push({ name, ...parsed, version });
      }
      const selection = selectionOf(entries);
      if (selection !== undefined) return { entries, selection };
    } catch (error) {
      throw new SelectorFailed(`${folder} cannot be read: ${errorCode(error) || String(error)}`, { cause: error });
    }
    throw new SelectorFailed(`there is neither sluice-a.conf nor sluice-b.conf in ${folder}`);
  };
  const remove = async (entries: Entry[]): Promise<void> => {
    if (entries.length === 0) return;
    for (const { name } of entries) await rm(join(folder, name), { force: true });
    await syncFolder(folder);
  };
  const counted = (entries: Entry[], slot: SlotName): Entry[] =>
    entries.filter((entry) => entry.slot === slot && entry.left !== null);

  return {
    read: async () => {
      try {
        return { state: 'read', selection: (await load()).selection };
      } catch (error) {
        if (error instanceof SelectorFailed) return { state: 'damaged', why: error.message };
        throw error;
      }
    },
    disable: async (slot) => remove((await load()).entries.filter((entry) => entry.slot === slot)),
    setTrial: async (slot, tries) => {
      const { entries } = await load();
      // Nothing else of this slot is there after `disable`; after a revert neither.
      await remove(entries.filter((entry) => entry.slot === slot));
      const version = Math.max(...entries.map((entry) => entry.version)) + 1;
      const template = await readFile(options.templates[slot], 'utf8');
      const name = `sluice-${slot}+${Math.min(tries, TRIES_MAX)}.conf`;
      await createFile(join(folder, name), makeEntry(template, version));
    },
    commit: async (slot) => {
      const { entries, selection } = await load();
      const [trial] = counted(entries, slot);
      if (selection.active !== slot && trial !== undefined)
        await createFile(join(folder, `sluice-${slot}.conf`), await readFile(join(folder, trial.name)));
      await remove(counted(entries, slot));
    },
    revert: async () => {
      const { entries, selection } = await load();
      if (selection.trial !== null) await remove(counted(entries, selection.trial.slot));
    },
    // Left by a cut between the two steps of a commit.
    keep: async () => {
      const { entries, selection } = await load();
      await remove(counted(entries, selection.active));
    },
    arm: async () => null,
    check: async () => [...(await checkFolder(options)), ...(await checkDefault(folder))],
  };
};

const checkFolder = async ({ entries, templates }: SystemdBootOptions): Promise<FitnessProblem[]> => {
  const problems: FitnessProblem[] = [];
  for (const [path, mode] of [
    [entries, constants.R_OK | constants.W_OK],
    [templates.a, constants.R_OK],
    [templates.b, constants.R_OK],
  ] as const) {
    const code = await access(path, mode).then(
      () => '',
      (error: unknown) => errorCode(error),
    );
    if (code !== '') problems.push({ grave: true, sentence: `${path}: ${code}` });
  }
  if (problems.length > 0) return problems;
  const names = (await readdir(entries)).map(parseEntryName);
  const committed = names.some((entry) => entry?.left === null);
  if (committed) return [];
  return [{ grave: true, sentence: `there is neither sluice-a.conf nor sluice-b.conf in ${entries}` }];
};

/** A fixed default would boot an entry that has no tries left. */
const checkDefault = async (entries: string): Promise<FitnessProblem[]> => {
  const file = join(entries, '..', 'loader.conf');
  const text = (await readFileIfThere(file).catch(() => undefined))?.toString('utf8') ?? '';
  const pattern = /^\s*default\s+(\S+)/m.exec(text)?.[1];
  if (pattern === undefined || /^sluice-\*(\.conf)?$/.test(pattern)) return [];
  return [{ grave: true, sentence: `${file} boots '${pattern}' by default: it must be sluice-*, or nothing` }];
};
