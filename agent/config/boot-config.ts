/**
 * The parts of the configuration that say how the device boots, no matter what writes into its slots.
 * docs/boot-selectors.md explains each.
 */
import { z } from 'zod';

export const Path = z.string().max(4096).regex(/^\//, 'must be an absolute path');
export const Command = z.array(z.string().min(1).max(4096)).min(1).max(64);
const Partition = z.number().int().min(1).max(128);
const Partitions = z
  .strictObject({ a: Partition, b: Partition })
  .refine(({ a, b }) => a !== b, 'the two slots must be different partitions');

/**
 * Where the boot loader is told which slot to boot. docs/boot-selectors.md has what each expects of the boot loader.
 */
export const SelectorConfig = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('uboot'),
    /** `fw_env.config` with two lines: a redundant environment. */
    config: Path.default('/etc/fw_env.config'),
    convention: z.enum(['rauc', 'mender']).default('rauc'),
    /** Mender's `mender_boot_part`. */
    partitions: Partitions.default({ a: 2, b: 3 }),
  }),
  z.strictObject({
    kind: z.literal('grub'),
    /** The environment block, `grubenv`. */
    environment: Path.default('/boot/grub/grubenv'),
  }),
  z.strictObject({
    kind: z.literal('raspberry-pi'),
    autoboot: Path.default('/boot/firmware/autoboot.txt'),
    /** `boot_partition` of each slot. */
    partitions: Partitions.default({ a: 2, b: 3 }),
    /** Instead of `reboot` for a trial: the firmware boots the other partition once. */
    tryboot: Command.default(['reboot', '0 tryboot']),
  }),
  z.strictObject({
    kind: z.literal('systemd-boot'),
    /** The folder `loader/entries` of the EFI system partition, or of XBOOTLDR. */
    entries: Path.default('/boot/loader/entries'),
    /** Boot entries without `version` and `sort-key`, which are added. */
    templates: z.strictObject({ a: Path, b: Path }),
  }),
]);
export type SelectorConfig = z.output<typeof SelectorConfig>;

/** How the running system shows which slot it is. */
export const RunningConfig = z.discriminatedUnion('by', [
  /** A parameter of the kernel command line, `sluice.slot=a`. */
  z.strictObject({
    by: z.literal('command-line'),
    parameter: z
      .string()
      .regex(/^[A-Za-z0-9_.-]{1,64}$/)
      .default('sluice.slot'),
    file: Path.default('/proc/cmdline'),
  }),
  /** The device that is mounted there is one of the two. */
  z.strictObject({ by: z.literal('mount'), point: Path.default('/') }),
]);
export type RunningConfig = z.output<typeof RunningConfig>;

export const REBOOTING = {
  reboot: Command.default(['systemctl', 'reboot']),
  /** How long a reboot may take before it counts as failed. */
  rebootMs: z.number().int().min(100).max(86_400_000).default(600_000),
  /** Changes with every boot. */
  bootId: Path.default('/proc/sys/kernel/random/boot_id'),
};
