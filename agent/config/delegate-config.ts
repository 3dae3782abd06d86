/** The part of the configuration for slots that someone else's installer writes. docs/delegate.md explains each. */
import { z } from 'zod';
import { Id } from '#shared/ids.ts';
import { Command, Path, REBOOTING, RunningConfig, SelectorConfig } from './boot-config.ts';

const DELEGATED = {
  kind: z.literal('delegate'),
  /** Added to the little that the installer's environment has. */
  environment: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,63}$/), z.string().max(4096)).default({}),
  /** How long an install may take. */
  installMs: z.number().int().min(100).max(86_400_000).default(3_600_000),
  /** How long everything else may take, each time. */
  verbMs: z.number().int().min(50).max(3_600_000).default(60_000),
  /** How long it may go on saying "later", each time. */
  laterMs: z.number().int().min(0).max(86_400_000).default(3_600_000),
  /** The first wait after "later"; each is twice as long as the one before, up to a minute. */
  laterFirstMs: z.number().int().min(1).max(60_000).default(1_000),
};

/** What the installer calls each of the two slots. */
const eachSlot = (charsMax: number) => {
  const name = z.string().min(1).max(charsMax);
  return z.strictObject({ a: name, b: name }).refine(({ a, b }) => a !== b, 'the two slots must have different names');
};

const RaucConfig = z.strictObject({
  ...DELEGATED,
  installer: z.literal('rauc'),
  handler: Id.default(Id.parse('rauc')),
  command: Command.default(['rauc']),
  /** `bootname` of each slot in RAUC's system.conf. */
  bootNames: eachSlot(64).default({ a: 'A', b: 'B' }),
  ...REBOOTING,
});

const SwupdateConfig = z.strictObject({
  ...DELEGATED,
  installer: z.literal('swupdate'),
  handler: Id.default(Id.parse('swupdate')),
  command: Command.default(['swupdate']),
  /** What is installed for each slot, `-e`: software set and mode of sw-description. */
  select: eachSlot(256).default({ a: 'stable,copy-1', b: 'stable,copy-2' }),
  /** The partitions or files that these write, which are read back. */
  a: Path,
  b: Path,
  selector: SelectorConfig,
  running: RunningConfig.prefault({ by: 'command-line' }),
  ...REBOOTING,
});

const CommandConfig = z.strictObject({
  ...DELEGATED,
  installer: z.literal('command'),
  /** The name that artifacts must have as their handler. */
  handler: Id,
  /** Speaks the protocol of docs/delegate.md. */
  command: Command,
});

export const DelegateConfig = z.discriminatedUnion('installer', [RaucConfig, SwupdateConfig, CommandConfig]);
export type DelegateConfig = z.output<typeof DelegateConfig>;
export type RaucConfig = z.output<typeof RaucConfig>;
export type SwupdateConfig = z.output<typeof SwupdateConfig>;
export type CommandConfig = z.output<typeof CommandConfig>;
