/**
 * What is known of a pair behind an installer of any kind: what `inspect` answers, and where it says nothing, what the
 * agent has recorded itself in `boot.0.json` and `boot.1.json` (the selection), `booted.json` (what it last booted) and
 * `<slot>.image.json` (what each slot was given).
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { CommandConfig } from '#agent/config/delegate-config.ts';
import type { SlotName } from '#agent/domain/slots.ts';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { Id } from '#shared/ids.ts';
import type { BootSelector, Selection } from '../boot-selector.ts';
import { type Refused, refuse } from '../image-pair.ts';
import { type ImageRecord, readImageRecord } from '../image-record.ts';
import { seal, unseal } from '../sealed.ts';
import type { Ask, Installer } from './installer.ts';
import { meaningOf, parseTold, type Told, type Verb, type VerbEnd } from './verbs.ts';

export type CommandPair = {
  config: CommandConfig;
  compatible: Id;
  /** Records are kept here. An absolute path. */
  dir: string;
  installer: Installer;
  selector: BootSelector;
  /** Called after every durable step. */
  cut: (name: string) => void;
  /** What `inspect` last answered. */
  told: Told | undefined;
};

export type Known = Selection & {
  ok: true;
  running: SlotName | null;
  /** What the installer itself said; empty when it says nothing. */
  told: Told;
  records: Record<SlotName, ImageRecord | undefined>;
};

export const askVerb = async (
  pair: CommandPair,
  verb: Verb,
  words: string[] = [],
  more: Pick<Ask, 'environment' | 'bytes' | 'signal'> = {},
): Promise<VerbEnd> => {
  const kind = verb === 'inspect' || verb === 'install' ? verb : 'change';
  const ask: Ask = { kind, words: [verb, ...words], ...more };
  const end = await pair.installer.ask(ask, (one) => isLater(meaningOf(verb, one)));
  // From here on it may say something else.
  if (kind !== 'inspect') pair.told = undefined;
  return meaningOf(verb, end);
};
const isLater = (end: VerbEnd): boolean => !end.ok && end.later;

/** While the installer is at something else, what it said before stands: the answer would wait for an hour. */
const askInspect = async (pair: CommandPair): Promise<{ ok: true; told: Told } | Refused> => {
  if (pair.told !== undefined && pair.installer.isChanging()) return { ok: true, told: pair.told };
  const asked = await askVerb(pair, 'inspect');
  if (!asked.ok) return refuse(asked.message, asked.code);
  const told = asked.known ? parseTold(asked.answer) : {};
  if (told === undefined) return refuse('inspect: what it answered is not of the form that docs/delegate.md asks for');
  pair.told = told;
  return { ok: true, told };
};

/** What is true of the pair, or why that cannot be told: then nothing is changed (faults 11). */
export const know = async (pair: CommandPair): Promise<Known | Refused> => {
  const asked = await askInspect(pair);
  if (!asked.ok) return asked;
  const { told } = asked;
  const found = await pair.selector.read();
  const isTold = told.active !== undefined && told.trial !== undefined;
  if (found.state === 'damaged' && !isTold)
    return refuse(`both copies of the boot selector in ${pair.dir} are damaged`);
  const own: Selection = found.state === 'read' ? found.selection : { active: null, trial: null };
  const running = told.running === undefined ? await readBooted(pair) : told.running;
  const active = told.active ?? (told.active === null ? null : (own.active ?? running));
  const records = { a: await contentOf(pair, told, 'a'), b: await contentOf(pair, told, 'b') };
  return { ok: true, active, trial: trialOf(told, own, active), running, told, records };
};

const trialOf = ({ trial }: Told, own: Selection, active: SlotName | null): Selection['trial'] => {
  const known = own.trial?.slot === active ? null : own.trial;
  if (trial === undefined) return known;
  if (trial === null) return null;
  const same = own.trial?.slot === trial.slot ? own.trial : undefined;
  const deployment = same?.deployment ?? UNKNOWN;
  return { slot: trial.slot, triesLeft: trial.triesLeft ?? same?.triesLeft ?? 1, deployment };
};
/** Of a trial that is not the agent's. */
const UNKNOWN = Id.parse('unknown');

/** What a slot was given, unless the installer says that it holds something else now. */
const contentOf = async (pair: CommandPair, told: Told, slot: SlotName): Promise<ImageRecord | undefined> => {
  const record = await readImageRecord(pair.dir, slot);
  const holds = told.contents?.[slot];
  return holds === undefined || holds === record?.artifact.sha256 ? record : undefined;
};

const Booted = z.object({ format: z.literal(1), slot: z.enum(['a', 'b']) });
const bootedFile = (dir: string): string => join(dir, 'booted.json');

const readBooted = async ({ dir }: CommandPair): Promise<SlotName | null> => {
  const bytes = await readFileIfThere(bootedFile(dir));
  return (bytes === undefined ? undefined : unseal(bytes, Booted)?.slot) ?? null;
};
export const writeBooted = ({ dir }: CommandPair, slot: SlotName): Promise<void> =>
  writeFileDurably(bootedFile(dir), seal({ format: 1, slot }));
