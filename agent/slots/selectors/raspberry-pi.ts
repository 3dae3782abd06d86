/**
 * The Raspberry Pi's firmware: `autoboot.txt` names the partition that boots, and another for the one boot after
 * `reboot "0 tryboot"`. That one boot is all that the firmware knows of a trial, so its tries are counted here, durably
 * and before each such reboot. Whatever else happens, switching the power off goes back to the committed slot.
 */
import { access, constants, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { other, type SlotName } from '#agent/domain/slots.ts';
import { errorCode } from '#agent/process/system-error.ts';
import { readFileIfThere, syncFolder, writeFileDurably } from '#shared/durable.ts';
import { seal, unseal } from '../sealed.ts';
import { createFile, overwrite } from './boot-files.ts';
import { type ImageSelector, SelectorFailed, type SelectorRead, TRIES_MAX } from './selector.ts';

/** The firmware reads no more of it. */
const AUTOBOOT_BYTES_MAX = 512;

const Trial = z.object({
  format: z.literal(1),
  slot: z.enum(['a', 'b']),
  triesLeft: z.number().int().min(0).max(TRIES_MAX),
});
type Trial = z.infer<typeof Trial>;

export type RaspberryPiOptions = {
  autoboot: string;
  partitions: Record<SlotName, number>;
  tryboot: string[];
  /** Where the trial is noted: not on the boot partition, which is best written as rarely as possible. */
  dir: string;
};

/** In place: it is less than a sector, and the firmware finds it on FAT. Shorter text is filled up at its end. */
const replace = async (file: string, text: string, before: string): Promise<void> => {
  const lacking = Buffer.byteLength(before) - Buffer.byteLength(text);
  const bytes = Buffer.from(lacking > 0 ? text + '\n'.repeat(lacking) : text);
  if (!(await overwrite(file, bytes))) await createFile(file, bytes);
};

type Autoboot = { abWanted: boolean; all: string | undefined; tryboot: string | undefined };

/** Of `autoboot.txt`, what says which partition boots; the last line of a name wins, as in the firmware. */
export const parseAutoboot = (text: string): Autoboot => {
  const found: Autoboot = { abWanted: false, all: undefined, tryboot: undefined };
  for (const { section, name, value } of settings(text)) {
    if (name === 'tryboot_a_b' && section === 'all') found.abWanted = value === '1';
    if (name === 'boot_partition' && section === 'all') found.all = value;
    if (name === 'boot_partition' && section === 'tryboot') found.tryboot = value;
  }
  return found;
};

/** The same text, but for the numbers of the partitions. */
export const withPartitions = (text: string, all: number, tryboot: number): string => {
  const lines = text.split('\n');
  for (const { line, section, name } of settings(text)) {
    if (name === 'boot_partition') lines[line] = `boot_partition=${section === 'tryboot' ? tryboot : all}`;
  }
  return lines.join('\n');
};

/** What stands before the first section belongs to all. */
const settings = (text: string): { line: number; section: string; name: string; value: string }[] => {
  let section = 'all';
  return text.split('\n').flatMap((content, line) => {
    const [, head] = /^\s*\[([^\]]*)\]/.exec(content) ?? [];
    if (head !== undefined) section = head.trim();
    const [, name, value] = /^\s*([A-Za-z0-9_]+)\s*=\s*(\S*)/.exec(content) ?? [];
    return name === undefined || head !== undefined ? [] : [{ line, section, name, value: value ?? '' }];
  });
};

export const openRaspberryPiSelector = (options: RaspberryPiOptions): ImageSelector => {
  const { autoboot, partitions } = options;
  const file = join(options.dir, 'tryboot.json');

  const activeOf = (text: string): SlotName | undefined => {
    const { abWanted, all, tryboot } = parseAutoboot(text);
    const slots = (['a', 'b'] as const).filter((slot) => String(partitions[slot]) === all);
    const active = slots[0];
    const fits = abWanted && active !== undefined && tryboot === String(partitions[other(active)]);
    return fits && Buffer.byteLength(text) <= AUTOBOOT_BYTES_MAX ? active : undefined;
  };
  const load = async (): Promise<{ text: string; active: SlotName; trial: Trial | null }> => {
    const text = await readFile(autoboot, 'utf8').catch((error: unknown) => {
      throw new SelectorFailed(`${autoboot} cannot be read: ${errorCode(error) || String(error)}`, { cause: error });
    });
    const active = activeOf(text);
    if (active === undefined)
      throw new SelectorFailed(
        `${autoboot} must have tryboot_a_b=1, boot_partition=${partitions.a} or ${partitions.b} in [all] and the other in [tryboot]`,
      );
    const note = await readFileIfThere(file);
    const trial = note === undefined ? undefined : unseal(note, Trial);
    // Left by a cut between the two steps of a commit.
    return { text, active, trial: trial === undefined || trial.slot === active ? null : trial };
  };
  const note = (trial: Trial): Promise<void> => writeFileDurably(file, seal(trial));
  const forget = async (): Promise<void> => {
    await rm(file, { force: true });
    await syncFolder(options.dir);
  };

  return {
    read: async (): Promise<SelectorRead> => {
      try {
        const { active, trial } = await load();
        const selection = { active, trial: trial === null ? null : { slot: trial.slot, triesLeft: trial.triesLeft } };
        return { state: 'read', selection };
      } catch (error) {
        if (error instanceof SelectorFailed) return { state: 'damaged', why: error.message };
        throw error;
      }
    },
    disable: async (slot) => {
      if ((await load()).trial?.slot === slot) await forget();
    },
    setTrial: async (slot, tries) => {
      await load();
      await note({ format: 1, slot, triesLeft: Math.min(tries, TRIES_MAX) });
    },
    commit: async (slot) => {
      const { text, active } = await load();
      if (active !== slot)
        await replace(autoboot, withPartitions(text, partitions[slot], partitions[other(slot)]), text);
      await forget();
    },
    revert: async () => {
      if ((await load()).trial !== null) await forget();
    },
    keep: async () => undefined,
    arm: async () => {
      const { trial } = await load();
      if (trial === null || trial.triesLeft === 0) return null;
      await note({ ...trial, triesLeft: trial.triesLeft - 1 });
      return options.tryboot;
    },
    check: async () => {
      try {
        await load();
        await access(dirname(autoboot), constants.W_OK);
        return [];
      } catch (error) {
        const sentence = error instanceof SelectorFailed ? error.message : `${dirname(autoboot)}: ${errorCode(error)}`;
        return [{ grave: true, sentence }];
      }
    },
  };
};
