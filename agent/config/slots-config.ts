/**
 * The part of the configuration that says what the A/B pair is made of. Only in the file: it has no flags.
 * docs/agent.md explains each.
 */
import { z } from 'zod';
import { Path, REBOOTING, RunningConfig, SelectorConfig } from './boot-config.ts';
import { DelegateConfig } from './delegate-config.ts';

const ImageConfig = z
  .strictObject({
    kind: z.literal('image'),
    /** A partition, a loop device or a file of the slot's size. */
    a: Path,
    b: Path,
    selector: SelectorConfig,
    running: RunningConfig.prefault({ by: 'command-line' }),
    ...REBOOTING,
  })
  .refine(({ a, b }) => a !== b, 'the two slots must be different');
export type ImageConfig = z.output<typeof ImageConfig>;

export const SlotsConfig = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('directories') }),
  ImageConfig,
  DelegateConfig,
]);
export type SlotsConfig = z.output<typeof SlotsConfig>;
