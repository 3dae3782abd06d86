/** The fleet that the device belongs to: known from an earlier life, or joined in this one. */
import type { Backoff } from './domain/retry.ts';
import { type Enrolled, type EnrolOptions, refreshEnrolled } from './enrol.ts';
import { enrolOrStop, pinRoot } from './join-fleet.ts';
import type { DeviceTrust } from './trust/device-trust.ts';

export type Membership = {
  /** Empty before the device ever was a member. */
  mqttUrl: () => string;
  /** Until it is a member that has its trust root. Throws `AgentStopped` when the server refuses for good. */
  join(): Promise<void>;
  /** The server may tell another address now. */
  refresh: () => Promise<void>;
};

export const openMembership = (
  options: Omit<EnrolOptions, 'config'> & {
    config: EnrolOptions['config'] & { mqttUrl?: string | undefined };
    known: Enrolled | undefined;
    trust: DeviceTrust;
    /** Between attempts at the trust root. */
    rootBackoff: Backoff;
  },
): Membership => {
  const { config, known, trust, rootBackoff, log, signal } = options;
  let told = known?.mqttUrl ?? '';
  const mqttUrl = (): string => config.mqttUrl ?? told;
  return {
    mqttUrl,
    join: async () => {
      const member = known ?? (await enrolOrStop(options));
      told = member.mqttUrl;
      await pinRoot(trust, member, log, rootBackoff, signal);
    },
    refresh: async () => {
      if (config.mqttUrl !== undefined || told === '') return;
      told = (await refreshEnrolled(options))?.mqttUrl ?? told;
    },
  };
};
