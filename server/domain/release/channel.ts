/**
 * A channel: where releases can be staged, and what a release needs before it may be. From the configuration;
 * docs/operations.md explains each field.
 */
import { z } from 'zod';
import { DurationMs, Id } from '#shared/ids.ts';

const APPROVALS_MAX = 8;
const CHECKS_MAX = 16;

const Requires = z.strictObject({
  /** A rollout of the release has completed in the channel before this one. */
  completedRollout: z.boolean().default(false),
  /** Time since that completion. */
  soakMs: DurationMs.default(0),
  /** Names of checks whose latest result must be `pass`. */
  checks: z.array(Id).max(CHECKS_MAX).default([]),
  /** Every bundle carries an attachment of the kind `sbom`. */
  sbom: z.boolean().default(false),
  /** Approvals of the release for this channel, by operators who neither published nor promote it. */
  approvals: z.number().int().min(0).max(APPROVALS_MAX).default(0),
});

export const Channel = z.strictObject({
  name: Id,
  requires: Requires.prefault({}),
  /** Approvals that a rollout in this channel needs before it starts, by operators other than its author. */
  rolloutApprovals: z.number().int().min(0).max(APPROVALS_MAX).default(0),
});
export type Channel = z.infer<typeof Channel>;

/** In the order in which releases are promoted. A bare name is a channel that requires nothing. */
export const Channels = z
  .array(z.preprocess((value) => (typeof value === 'string' ? { name: value } : value), Channel))
  .min(1)
  .max(32)
  .superRefine((channels, context) => {
    const wrong = (index: number, message: string) => context.addIssue({ code: 'custom', path: [index], message });
    const names = channels.map(({ name }) => name);
    channels.forEach(({ name, requires }, index) => {
      if (names.indexOf(name) !== index) wrong(index, `there are two channels ${name}`);
      if (requires.completedRollout && index === 0)
        wrong(index, 'completedRollout: there is no channel before the first');
      if (requires.soakMs > 0 && !requires.completedRollout) wrong(index, 'soakMs needs completedRollout: true');
    });
  });

/** The channel with that name and the one before it; undefined when there is none. */
export const findChannel = (
  channels: readonly Channel[],
  name: Id,
): { channel: Channel; previous: Channel | null } | undefined => {
  const index = channels.findIndex((channel) => channel.name === name);
  const channel = channels[index];
  return channel && { channel, previous: channels[index - 1] ?? null };
};
