/**
 * GRUB's environment block as a store. `grub-editenv set` truncates the file first; here, and by GRUB itself when it
 * counts a try, the 1024 bytes are overwritten where they are. What is ours is kept in the first sector, and a disk
 * writes a sector whole or not at all: a cut leaves the old block or the new one. A second file, `<block>.committed`,
 * never has a trial in it: the script falls back to it when the block cannot be read.
 */
import { access, constants, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errorCode } from '#agent/process/system-error.ts';
import { readFileIfThere } from '#shared/durable.ts';
import { deviceNumber, mounts } from '../block-device.ts';
import { createFile, overwrite } from './boot-files.ts';
import { makeBlock, parseBlock } from './grub-block.ts';
import { GRUB } from './grub-convention.ts';
import { type FitnessProblem, type ImageSelector, SelectorFailed } from './selector.ts';
import { type Changes, openVariableSelector, type VariableStore, type Variables } from './variables.ts';

/** Written first, so that what GRUB changes stays within one sector. */
const OURS = ['ORDER', 'TRIAL', 'TRIAL_LEFT', 'A_OK', 'A_TRY', 'B_OK', 'B_TRY'];

/** They never overwrite a block where it is. */
const COPIES_ON_WRITE = /^(btrfs|bcachefs|zfs|f2fs)$/;

export const committedFile = (environment: string): string => `${environment}.committed`;

const apply = (variables: Variables, changes: Changes): Variables => {
  const all: Variables = { ...variables, ...changes };
  const names = [...OURS, ...Object.keys(all).filter((name) => !OURS.includes(name))];
  return Object.fromEntries(names.flatMap((name) => ((all[name] ?? '') === '' ? [] : [[name, all[name]!]])));
};

const write = async (file: string, variables: Variables): Promise<void> => {
  const block = makeBlock(variables);
  if (block === undefined) throw new SelectorFailed(`the variables do not fit into ${file}`);
  // A new file, renamed, is nothing that GRUB sees for sure: it reads no journal, and vfat writes the directory's entry
  // of what was renamed some time later.
  if (!(await overwrite(file, block))) await createFile(file, block);
};

const openGrubStore = (environment: string): VariableStore => {
  const load = async (file: string): Promise<Variables | undefined> => {
    const block = await readFileIfThere(file);
    return block === undefined ? undefined : parseBlock(block);
  };
  const read: VariableStore['read'] = async () => {
    try {
      const newest = await load(environment);
      if (newest === undefined)
        return { state: 'damaged', why: `${environment} is not there, or is not an environment block of GRUB` };
      return { state: 'read', newest, older: (await load(committedFile(environment))) ?? null };
    } catch (error) {
      return { state: 'damaged', why: `${environment} cannot be read: ${errorCode(error) || String(error)}` };
    }
  };
  const current = async (): Promise<Variables> => {
    const found = await read();
    if (found.state === 'damaged') throw new SelectorFailed(found.why);
    return found.newest;
  };
  return {
    read,
    write: async (changes) => write(environment, apply(await current(), changes)),
    settle: async () => {
      const variables = await current();
      // A committed state only: a boot loader that reads the second file does not count.
      if ((variables['TRIAL'] ?? '') === '') await write(committedFile(environment), apply(variables, {}));
    },
    check: () => checkFolder(environment),
  };
};

const SECTOR_BYTES = 512;
const twoSectors = (environment: string): FitnessProblem => ({
  grave: false,
  sentence: `${environment} holds more than fits into its first ${SECTOR_BYTES} bytes: a change may be torn; unset what is not needed`,
});

const checkFolder = async (environment: string): Promise<FitnessProblem[]> => {
  const folder = dirname(environment);
  const problems: FitnessProblem[] = [];
  try {
    await access(folder, constants.W_OK);
    const { dev } = await stat(folder);
    const block = await readFileIfThere(environment);
    if (block !== undefined && /[^#]/.test(block.toString('latin1', SECTOR_BYTES)))
      problems.push(twoSectors(environment));
    const mounted = (await mounts()).find(({ device }) => device === deviceNumber(dev));
    if (mounted === undefined || !COPIES_ON_WRITE.test(mounted.type)) return problems;
    const sentence = `${folder} is on ${mounted.type}, which never overwrites a file where it is: GRUB cannot count tries there, and after a power cut it may see an older state; use FAT or ext4 (docs/boot-selectors.md)`;
    return [...problems, { grave: false, sentence }];
  } catch (error) {
    return [{ grave: true, sentence: `${folder} cannot be written: ${errorCode(error) || String(error)}` }];
  }
};

export const openGrubSelector = (options: { environment: string }): ImageSelector =>
  openVariableSelector(openGrubStore(options.environment), GRUB);
