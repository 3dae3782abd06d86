/** The fleet that the device belongs to: known from an earlier life, or joined in this one. */
import type { Backoff } from '../domain/backoff.ts';
import type { DeviceTrust } from '../trust/device-trust.ts';
import { type Enrolled, type EnrolOptions, refreshEnrolled } from './enrol.ts';
import { enrolOrStop, pinRoot } from './join-fleet.ts';

export type Membership = {
  /** Undefined before the device ever was a member, and while the address that it was told cannot be used. */
  mqttUrl: () => string | undefined;
  /** Until it is a member. Throws `AgentStopped` when the server refuses for good. */
  join(): Promise<void>;
  /** Until it has its trust root. */
  pinRoot(): Promise<void>;
  /** The server may tell another address now. `refused`: it does not know this device, or does not want it. */
  refresh: (refused: boolean) => Promise<void>;
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
  let member = known;
  const mqttUrl = (): string | undefined => config.mqttUrl ?? member?.mqttUrl ?? undefined;
  return {
    mqttUrl,
    join: async () => {
      member ??= await enrolOrStop(options);
    },
    pinRoot: async () => {
      if (member !== undefined) await pinRoot(trust, member, log, rootBackoff, signal);
    },
    refresh: async (refused) => {
      if ((refused || config.mqttUrl === undefined) && member !== undefined)
        member = (await refreshEnrolled(options)) ?? member;
    },
  };
};
