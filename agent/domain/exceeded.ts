/**
 * How a deployment ends that goes round in circles, since its agent is killed again and again: it goes back, and where
 * that does not come to its end either, the outcome is what the boot selector says.
 */
import type { Effect, InstallEvent, Journey, StateName } from './install-state.ts';

/** Past these nothing is repeated but a revert. */
export const TRANSITIONS_MAX = 100;
/** For a revert; and as many again for asking the slots how it ended. */
export const REVERT_TRANSITIONS_MAX = 50;

/** What happens instead of what the table says: `event` is why `next` is entered. */
type Instead = { next: StateName; event: InstallEvent; effects: Effect[] };

/** `next` is where the table leads. Undefined: there it goes. */
export const whenExceeded = (now: Journey, event: InstallEvent, next: StateName): Instead | undefined => {
  const over = now.transitions - TRANSITIONS_MAX;
  const isRestart = event.kind === 'restarted';
  const boot: Effect[] = isRestart ? ['boot'] : [];
  if (over < 0) return undefined;
  switch (now.state) {
    case 'accepted':
    case 'waiting':
    case 'fetching':
    case 'verified':
    case 'ready':
      return { next: 'failed', event: givenUp(event), effects: [...boot, 'sign-receipt'] };
    case 'activating':
    case 'trial':
    case 'committing':
      // What leads on comes to an end by itself.
      if (next !== now.state) return undefined;
      if (event.kind === 'found-active')
        return { next: 'committed', event, effects: ['boot', 'after-commit', 'sign-receipt'] };
      return { next: 'reverting', event: givenUp(event), effects: ['revert'] };
    case 'reverting':
      if (next !== now.state || over < REVERT_TRANSITIONS_MAX) return undefined;
      if (isRestart && over < 2 * REVERT_TRANSITIONS_MAX) return { next: now.state, event, effects: ['inspect'] };
      return { next: 'failed', event: givenUp(event), effects: ['boot', 'sign-receipt'] };
    case 'verifying-revert':
      if (next !== now.state || over < REVERT_TRANSITIONS_MAX) return undefined;
      // The boot selector was reverted before this state was entered.
      return { next: 'reverted', event, effects: [...boot, 'after-revert', 'sign-receipt'] };
    default:
      // What has ended may take any number to be reported.
      return undefined;
  }
};

const givenUp = ({ at }: InstallEvent): InstallEvent => {
  const message = `gave up after ${TRANSITIONS_MAX} transitions`;
  return { kind: 'failed', at, error: { code: 'TRANSITIONS_EXCEEDED', message } };
};
