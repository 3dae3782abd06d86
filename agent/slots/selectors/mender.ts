/**
 * Mender's variables for U-Boot: `mender_boot_part` boots; with `upgrade_available=1` U-Boot counts `bootcount` up, and
 * past `bootlimit` its `altbootcmd` goes back to the other part and clears `upgrade_available`. `sluice_trial` survives
 * that, and so says what was given up.
 */
import { other, type SlotName } from '#agent/domain/slots.ts';
import type { Changes, Convention, Variables } from './variables.ts';

const count = (variables: Variables, name: string, unset: number): number => {
  const digits = variables[name] ?? '';
  if (digits === '') return unset;
  return /^\d{1,6}$/.test(digits) ? Number(digits) : Number.POSITIVE_INFINITY;
};

export const mender = (partitions: Record<SlotName, number>): Convention => {
  const slotOf = (part: string | undefined): SlotName | undefined =>
    part === String(partitions.a) ? 'a' : part === String(partitions.b) ? 'b' : undefined;
  const boots = (slot: SlotName, more: Changes): Changes => ({
    mender_boot_part: String(partitions[slot]),
    mender_boot_part_hex: partitions[slot].toString(16),
    bootcount: '0',
    ...more,
  });
  const ended = { upgrade_available: '0', sluice_trial: '' };
  const pending = (variables: Variables): boolean => variables['upgrade_available'] === '1';

  const read: Convention['read'] = (variables) => {
    const part = slotOf(variables['mender_boot_part']);
    if (part === undefined)
      return `mender_boot_part is '${variables['mender_boot_part'] ?? ''}', and should be ${partitions.a} or ${partitions.b}`;
    const trial = variables['sluice_trial'] ?? '';
    if (trial !== '' && trial !== 'a' && trial !== 'b') return `sluice_trial is '${trial}', and should be a or b`;
    if (pending(variables)) {
      const left = count(variables, 'bootlimit', 1) - count(variables, 'bootcount', 0);
      return { active: other(part), trial: { slot: part, triesLeft: left > 0 ? left : 0 } };
    }
    return trial === ''
      ? { active: part, trial: null }
      : { active: other(trial), trial: { slot: trial, triesLeft: 0 } };
  };

  return {
    read,
    mayBoot: (variables, slot) => pending(variables) || slotOf(variables['mender_boot_part']) !== other(slot),
    disable: (_variables, slot) => boots(other(slot), ended),
    trial: (slot, tries) => boots(slot, { upgrade_available: '1', bootlimit: String(tries), sluice_trial: slot }),
    commit: (slot) => boots(slot, ended),
    revert: (active) => boots(active, ended),
    keep: () => ({}),
  };
};
