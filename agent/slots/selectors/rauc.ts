/**
 * RAUC's variables for U-Boot: `BOOT_ORDER="B A"`, and `BOOT_B_LEFT` boots that its script counts down, every boot.
 * Ours is `sluice_trial`, which tells a trial from a slot that is merely first; the script does not know it, and so it
 * survives a fallback.
 */
import { other, type SlotName } from '#agent/domain/slots.ts';
import type { Changes, Convention, Variables } from './variables.ts';

type Letter = 'A' | 'B';
export const letterOf = (slot: SlotName): Letter => (slot === 'a' ? 'A' : 'B');
const slotOf = (letter: string | undefined): SlotName | undefined =>
  letter === 'A' ? 'a' : letter === 'B' ? 'b' : undefined;

/** `"B A"` -> `['b', 'a']`; undefined for anything but one or both of the two. */
export const parseOrder = (order: string | undefined): SlotName[] | undefined => {
  const slots = (order ?? '')
    .split(' ')
    .filter((word) => word !== '')
    .map(slotOf);
  const known = slots.filter((slot) => slot !== undefined);
  const fits = known.length === slots.length && known.length > 0 && new Set(known).size === known.length;
  return fits ? known : undefined;
};
export const orderOf = (first: SlotName): string => `${letterOf(first)} ${letterOf(other(first))}`;

/** What the committed slot may fail to come up before the script goes on to the other: RAUC's default. */
const LEFT = 3;
const leftName = (slot: SlotName): string => `BOOT_${letterOf(slot)}_LEFT`;
/** The script's `setexpr` writes hexadecimal digits. */
const leftOf = (variables: Variables, slot: SlotName): number => {
  const digits = variables[leftName(slot)] ?? '';
  // The script gives three to one that is not set.
  if (digits === '') return LEFT;
  return /^[0-9a-f]{1,4}$/i.test(digits) ? Number.parseInt(digits, 16) : 0;
};

const end = (active: SlotName, order: string, otherLeft: number): Changes => ({
  BOOT_ORDER: order,
  [leftName(active)]: LEFT.toString(16),
  [leftName(other(active))]: otherLeft.toString(16),
  sluice_trial: '',
});

export const RAUC: Convention = {
  read: (variables) => {
    const order = parseOrder(variables['BOOT_ORDER']);
    if (order === undefined) return `BOOT_ORDER is '${variables['BOOT_ORDER'] ?? ''}', and should be 'A B' or 'B A'`;
    const trial = variables['sluice_trial'] ?? '';
    if (trial === '') return { active: order[0]!, trial: null };
    if (trial !== 'a' && trial !== 'b') return `sluice_trial is '${trial}', and should be a or b`;
    return {
      active: other(trial),
      trial: { slot: trial, triesLeft: order[0] === trial ? leftOf(variables, trial) : 0 },
    };
  },
  mayBoot: (variables, slot) => parseOrder(variables['BOOT_ORDER'])?.includes(slot) ?? true,
  disable: (variables, slot) => ({
    BOOT_ORDER: letterOf(other(slot)),
    [leftName(slot)]: '0',
    ...(variables['sluice_trial'] === slot ? { sluice_trial: '' } : {}),
  }),
  trial: (slot, tries) => ({
    ...end(slot, orderOf(slot), LEFT),
    [leftName(slot)]: tries.toString(16),
    sluice_trial: slot,
  }),
  commit: (slot) => end(slot, orderOf(slot), LEFT),
  revert: (active) => end(active, letterOf(active), 0),
  keep: (variables, active) => (leftOf(variables, active) < LEFT ? { [leftName(active)]: LEFT.toString(16) } : {}),
};
