/**
 * Whether the pair can be installed to at all: a boot selector that cannot be read has to be seen by someone (faults
 * 11).
 */
import type { Slots } from '../domain/slots.ts';

/** As long as an attribute may be. */
const SENTENCE_LENGTH_MAX = 256;

export type SlotsHealth = {
  /** Looks again. */
  isWell(): Promise<boolean>;
  /** What was wrong when last looked, as a reported attribute. */
  attributes(): { unhealthy?: string };
};

export const watchSlots = (slots: Pick<Slots, 'inspect'>): SlotsHealth => {
  let trouble: string | null = null;
  return {
    isWell: async () => {
      const inspected = await slots.inspect();
      trouble = inspected.ok ? null : inspected.message.slice(0, SENTENCE_LENGTH_MAX);
      return inspected.ok;
    },
    attributes: () => (trouble === null ? {} : { unhealthy: trouble }),
  };
};
