/** RAUC as its own command shows it: `rauc status`, and what an install needs. */
import { z } from 'zod';
import type { RaucConfig } from '#agent/config/delegate-config.ts';
import type { SlotName } from '#agent/domain/slots.ts';
import { Sha256 } from '#shared/ids.ts';
import { SelectorFailed } from '../selectors/selector.ts';
import type { Ask, Installer } from './installer.ts';
import type { InstallerEnd } from './run-installer.ts';

const Text = z.string().max(4096);
const Status = z.object({
  /** `bootname` of what runs. */
  booted: Text.nullable(),
  /** Name of the slot that boots next. */
  boot_primary: Text.nullable(),
  slots: z
    .array(
      z.record(
        Text,
        z.object({
          class: Text,
          device: Text,
          bootname: Text.nullish(),
          parent: Text.nullish(),
          boot_status: Text.nullish(),
        }),
      ),
    )
    .max(64),
});
const Info = z.object({
  images: z
    .array(
      z.record(Text, z.object({ filename: Text.nullable(), checksum: Sha256.nullish(), size: z.number().nullish() })),
    )
    .max(64),
});

type RaucSlot = { name: string; class: string; device: string; parent: string | null; bootName: string | null };
export type RaucStatus = {
  booted: SlotName | null;
  primary: SlotName | null;
  /** Of the two that boot. */
  names: Record<SlotName, string>;
  /** All of them: a slot that boots may have others that belong to it. */
  all: RaucSlot[];
};
/** An image of a bundle, that is written as it is. */
type RaucImage = { class: string; filename: string; sha256: Sha256; bytes: number };

export type RaucClient = {
  /** As RAUC said within the last second; while it changes something, what it said before. Throws `SelectorFailed`. */
  status(): Promise<RaucStatus>;
  /** `mark-active rootfs.1` and the like. Throws `SelectorFailed`. */
  mark(how: 'active' | 'good' | 'bad', name: string): Promise<void>;
  install(bundle: string, more: Pick<Ask, 'bytes' | 'signal'>): Promise<{ ok: true } | { ok: false; why: string }>;
  images(bundle: string): Promise<RaucImage[]>;
};

/** No one else changes what boots, as a rule; and one decision asks several times. */
const FRESH_MS = 1_000;

/** Its service does one thing at a time, and goes on with an install whose client was killed. */
const isBusy = ({ exitCode, said }: InstallerEnd): boolean =>
  exitCode !== 0 && /already processing a different method/i.test(said);

export const raucClient = (config: Pick<RaucConfig, 'bootNames'>, installer: Installer): RaucClient => {
  let last: { status: RaucStatus; at: number } | undefined;
  const ask = async (question: Ask): Promise<string> => {
    const end = await installer.ask(question, isBusy);
    if (question.kind !== 'inspect') last = undefined;
    if (end.exitCode === 0) return end.answer;
    throw new SelectorFailed(`rauc ${question.words.join(' ')}: ${end.why}: ${end.said.slice(-500)}`);
  };
  const askJson = async <S extends z.ZodType>(words: string[], schema: S): Promise<z.infer<S>> => {
    const answer = await ask({ kind: 'inspect', words });
    const line = answer.split('\n').find((one) => one.startsWith('{')) ?? '';
    try {
      return schema.parse(JSON.parse(line));
    } catch (cause) {
      throw new SelectorFailed(`rauc ${words.join(' ')}: its answer cannot be read`, { cause });
    }
  };
  return {
    status: async () => {
      if (last !== undefined && (installer.isChanging() || performance.now() - last.at < FRESH_MS)) return last.status;
      const status = statusOf(await askJson(['status', '--output-format=json'], Status), config.bootNames);
      last = { status, at: performance.now() };
      return status;
    },
    mark: async (how, name) => void (await ask({ kind: 'change', words: ['status', `mark-${how}`, name] })),
    install: async (bundle, more) => {
      const end = await installer.ask({ kind: 'install', words: ['install', bundle], ...more }, isBusy);
      last = undefined;
      return end.exitCode === 0
        ? { ok: true }
        : { ok: false, why: `rauc install: ${end.why}: ${end.said.slice(-500)}` };
    },
    images: async (bundle) => {
      const { images } = await askJson(['info', '--output-format=json', bundle], Info);
      return images.flatMap((image) =>
        Object.entries(image).flatMap(([name, { filename, checksum, size }]) =>
          filename === null || typeof checksum !== 'string' || typeof size !== 'number'
            ? []
            : [{ class: name, filename, sha256: checksum, bytes: size }],
        ),
      );
    },
  };
};

const statusOf = (status: z.infer<typeof Status>, bootNames: RaucConfig['bootNames']): RaucStatus => {
  const all = status.slots.flatMap((one) =>
    Object.entries(one).map(([name, slot]) => ({
      name,
      class: slot.class,
      device: slot.device,
      parent: slot.parent ?? null,
      bootName: slot.bootname ?? null,
    })),
  );
  const nameOf = (bootName: string): string => {
    const found = all.find((slot) => slot.bootName === bootName);
    if (found !== undefined) return found.name;
    throw new SelectorFailed(`RAUC's system.conf has no slot with bootname=${bootName}`);
  };
  const names = { a: nameOf(bootNames.a), b: nameOf(bootNames.b) };
  const slotOf = (known: Record<SlotName, string>, name: string | null): SlotName | null =>
    name === known.a ? 'a' : name === known.b ? 'b' : null;
  const booted = slotOf(bootNames, status.booted) ?? slotOf(names, status.booted);
  return { booted, primary: slotOf(names, status.boot_primary), names, all };
};
