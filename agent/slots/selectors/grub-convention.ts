/**
 * RAUC's variables for GRUB: `ORDER="B A"`, `B_OK=1`, and `B_TRY=1` once it was tried. Ours are `TRIAL` and
 * `TRIAL_LEFT`, with which the script of docs/boot-selectors.md counts while a trial is pending and only then: a
 * committed slot never loses to the other by being switched off.
 */
import { other, type SlotName } from '#agent/domain/slots.ts';
import { letterOf, orderOf, parseOrder } from './rauc.ts';
import type { Changes, Convention, Variables } from './variables.ts';

const okName = (slot: SlotName): string => `${letterOf(slot)}_OK`;
const tryName = (slot: SlotName): string => `${letterOf(slot)}_TRY`;
const state = (slot: SlotName, ok: '0' | '1'): Changes => ({ [okName(slot)]: ok, [tryName(slot)]: '0' });
const NO_TRIAL = { TRIAL: '', TRIAL_LEFT: '' };

const leftOf = (variables: Variables, slot: SlotName): number => {
  const digits = variables['TRIAL_LEFT'] ?? '';
  const first = parseOrder(variables['ORDER'])?.[0] === slot;
  // RAUC's own script knows one try only, and marks it so.
  const usable = first && variables[okName(slot)] === '1' && variables[tryName(slot)] !== '1';
  return usable && /^\d$/.test(digits) ? Number(digits) : 0;
};

export const GRUB: Convention = {
  read: (variables) => {
    const order = parseOrder(variables['ORDER']);
    if (order === undefined) return `ORDER is '${variables['ORDER'] ?? ''}', and should be 'A B' or 'B A'`;
    const letter = variables['TRIAL'] ?? '';
    if (letter === '') return { active: order[0]!, trial: null };
    const slot = parseOrder(letter);
    if (slot?.length !== 1) return `TRIAL is '${letter}', and should be A or B`;
    return { active: other(slot[0]!), trial: { slot: slot[0]!, triesLeft: leftOf(variables, slot[0]!) } };
  },
  mayBoot: (variables, slot) =>
    (parseOrder(variables['ORDER'])?.includes(slot) ?? true) && variables[okName(slot)] !== '0',
  disable: (variables, slot) => ({
    ORDER: letterOf(other(slot)),
    ...state(slot, '0'),
    ...(variables['TRIAL'] === letterOf(slot) ? NO_TRIAL : {}),
  }),
  trial: (slot, tries) => ({
    ORDER: orderOf(slot),
    ...state(slot, '1'),
    ...state(other(slot), '1'),
    TRIAL: letterOf(slot),
    TRIAL_LEFT: String(tries),
  }),
  commit: (slot) => ({ ORDER: orderOf(slot), ...state(slot, '1'), ...state(other(slot), '1'), ...NO_TRIAL }),
  revert: (active) => ({ ORDER: letterOf(active), ...state(active, '1'), ...state(other(active), '0'), ...NO_TRIAL }),
  keep: (variables, active) =>
    variables[tryName(active)] === '1' || variables[okName(active)] === '0' ? state(active, '1') : {},
};
