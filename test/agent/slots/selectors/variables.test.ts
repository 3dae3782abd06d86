/** The conventions alone, on two copies in memory: whatever is asked, cut or torn, in whatever order. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { other, type SlotName } from '#agent/domain/slots.ts';
import { GRUB } from '#agent/slots/selectors/grub-convention.ts';
import { mender } from '#agent/slots/selectors/mender.ts';
import { parseOrder, RAUC } from '#agent/slots/selectors/rauc.ts';
import {
  type Convention,
  openVariableSelector,
  type VariableStore,
  type Variables,
} from '#agent/slots/selectors/variables.ts';

type Copies = { newest: Variables; older: Variables | null };
class Cut extends Error {}

/** `writesLeft` is when the power fails: right before the write after so many. */
const storeOf = (copies: Copies, power: { writesLeft: number }, settles: (copies: Copies) => Copies): VariableStore => {
  const cut = (): void => {
    if (power.writesLeft === 0) throw new Cut();
    power.writesLeft -= 1;
  };
  return {
    read: async () => ({ state: 'read', ...copies }),
    write: async (changes) => {
      cut();
      const next = { ...copies.newest, ...changes };
      for (const [name, value] of Object.entries(changes)) if (value === '') delete next[name];
      Object.assign(copies, advance(copies, next));
    },
    settle: async () => {
      cut();
      Object.assign(copies, settles(copies));
    },
    check: async () => [],
  };
};
/** U-Boot writes into the older copy; GRUB's second file stays until it is settled. */
const alternate = (copies: Copies, newest: Variables): Copies => ({ newest, older: copies.newest });
let advance = alternate;

type Loader = {
  convention: Convention;
  start: Variables;
  boot(variables: Variables): { slot: SlotName; next: Variables };
};
const LOADERS: Record<string, Loader & { second: 'alternates' | 'is kept' }> = {
  RAUC: {
    second: 'alternates',
    convention: RAUC,
    start: { BOOT_ORDER: 'A B', BOOT_A_LEFT: '3', BOOT_B_LEFT: '3' },
    boot: (variables) => {
      for (let variablesNow = variables; ; variablesNow = { ...variables, BOOT_A_LEFT: '3', BOOT_B_LEFT: '3' }) {
        for (const slot of parseOrder(variablesNow['BOOT_ORDER'])!) {
          const name = `BOOT_${slot.toUpperCase()}_LEFT`;
          const left = Number.parseInt(variablesNow[name]!, 16);
          if (left > 0) return { slot, next: { ...variablesNow, [name]: (left - 1).toString(16) } };
        }
      }
    },
  },
  Mender: {
    second: 'alternates',
    convention: mender({ a: 2, b: 3 }),
    start: { mender_boot_part: '2', upgrade_available: '0', bootcount: '0' },
    boot: (variables) => {
      const slotOf = (part: string): SlotName => (part === '2' ? 'a' : 'b');
      const part = variables['mender_boot_part']!;
      if (variables['upgrade_available'] !== '1') return { slot: slotOf(part), next: variables };
      const bootcount = Number(variables['bootcount']) + 1;
      if (bootcount <= Number(variables['bootlimit']))
        return { slot: slotOf(part), next: { ...variables, bootcount: String(bootcount) } };
      const back = part === '2' ? '3' : '2';
      return { slot: slotOf(back), next: { ...variables, mender_boot_part: back, upgrade_available: '0' } };
    },
  },
  GRUB: {
    second: 'is kept',
    convention: GRUB,
    start: { ORDER: 'A B', A_OK: '1', B_OK: '1', A_TRY: '0', B_TRY: '0' },
    boot: (variables) => {
      for (const slot of parseOrder(variables['ORDER'])!) {
        const letter = slot.toUpperCase();
        if (variables[`${letter}_OK`] !== '1') continue;
        if (variables['TRIAL'] !== letter) return { slot, next: variables };
        const left = Number(variables['TRIAL_LEFT']);
        if (left > 0) return { slot, next: { ...variables, TRIAL_LEFT: String(left - 1) } };
      }
      throw new Error('nothing boots');
    },
  },
};

const action = fc.oneof(
  { weight: 3, arbitrary: fc.constant({ kind: 'boot' as const }) },
  fc.record({ kind: fc.constantFrom('prepare' as const, 'activate' as const), tries: fc.integer({ min: 1, max: 4 }) }),
  fc.constant({ kind: 'commit' as const }),
  fc.constant({ kind: 'revert' as const }),
);

describe.each(Object.entries(LOADERS))('%s', (_name, loader) => {
  const advancing = (copies: Copies, newest: Variables): Copies =>
    loader.second === 'alternates' ? alternate(copies, newest) : { ...copies, newest };
  const settling = (copies: Copies): Copies =>
    loader.second === 'is kept' && (copies.newest['TRIAL'] ?? '') !== '' ? copies : { ...copies, older: copies.newest };

  test('a slot that was prepared does not boot until it is on trial, whatever is cut or torn', async () => {
    advance = advancing;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(action, fc.integer({ min: 0, max: 6 })), { maxLength: 30 }), async (steps) => {
        const copies: Copies = { newest: loader.start, older: null };
        const power = { writesLeft: 0 };
        const selector = openVariableSelector(storeOf(copies, power, settling), loader.convention);
        /** What may be half written. */
        let unwritten: SlotName | null = null;
        for (const [step, writesLeft] of steps) {
          power.writesLeft = writesLeft;
          const found = await selector.read();
          if (found.state === 'damaged') throw new Error(found.why);
          const { active, trial } = found.selection;
          const standby = other(active);
          await (async () => {
            if (step.kind === 'prepare') {
              await selector.disable(standby);
              unwritten = standby;
            }
            // Only what is written and read back is activated.
            if (step.kind === 'activate' && trial === null) {
              unwritten = null;
              await selector.setTrial(standby, step.tries);
            }
            if (step.kind === 'commit' && trial !== null) await selector.commit(trial.slot);
            if (step.kind === 'revert') await selector.revert();
            if (step.kind === 'boot') {
              const booted = loader.boot(copies.newest);
              Object.assign(copies, advancing(copies, booted.next));
            }
          })().catch((error: unknown) => {
            if (!(error instanceof Cut)) throw error;
          });
          // The newest copy may be torn at any moment: what the other says must do as well.
          for (const variables of [copies.newest, copies.older]) {
            let now = variables ?? loader.start;
            for (let boot = 0; boot < 12; boot += 1) {
              const { slot, next } = loader.boot(now);
              expect(slot).not.toBe(unwritten);
              now = next;
            }
          }
        }
      }),
      { numRuns: 300 },
    );
  });
});

test('RAUC: a count in hexadecimal digits, an order that makes no sense', () => {
  expect(RAUC.read({ BOOT_ORDER: 'B A', BOOT_B_LEFT: 'a', sluice_trial: 'b' })).toEqual({
    active: 'a',
    trial: { slot: 'b', triesLeft: 10 },
  });
  expect(RAUC.read({ BOOT_ORDER: 'B', BOOT_A_LEFT: '0' })).toEqual({ active: 'b', trial: null });
  for (const BOOT_ORDER of ['', 'A A', 'A B A', 'C', 'a b']) expect(RAUC.read({ BOOT_ORDER })).toMatch(/BOOT_ORDER/);
});

test('Mender: a trial that another client set is one too', () => {
  const variables = { mender_boot_part: '3', upgrade_available: '1', bootcount: '0' };
  expect(mender({ a: 2, b: 3 }).read(variables)).toEqual({ active: 'a', trial: { slot: 'b', triesLeft: 1 } });
  expect(mender({ a: 2, b: 3 }).read({ mender_boot_part: '5' })).toMatch(/mender_boot_part/);
});

test("GRUB: with RAUC's own script, which knows one try only, a trial has one", () => {
  const tried = { ORDER: 'B A', A_OK: '1', B_OK: '1', B_TRY: '1', TRIAL: 'B', TRIAL_LEFT: '3' };
  expect(GRUB.read(tried)).toEqual({ active: 'a', trial: { slot: 'b', triesLeft: 0 } });
  expect(GRUB.keep({ ORDER: 'A B', A_OK: '1', A_TRY: '1' }, 'a')).toEqual({ A_OK: '1', A_TRY: '0' });
});
