/**
 * Desired documents as they arrive: pushed, polled or asked for, perhaps twice or out of order. Only the newest matters. One that is not
 * verified never reaches the state machine; one that comes while a version is on trial waits here until that has ended.
 */
import { type Desired, DesiredLeaf, Instruction } from '#shared/messages.ts';
import { type InstallState, isBeforeActivation, type Offer } from './domain/install.ts';
import type { Memory } from './domain/memory.ts';
import { type Backoff, backoffMs } from './domain/retry.ts';
import type { Log } from './log.ts';
import type { EventOf } from './machine.ts';
import type { DeviceTrust } from './trust/device-trust.ts';

export type Refusal = { seq: number; code: string; message: string };

export type Inbox = {
  receive: (desired: Desired) => void;
  /** The state has changed, or the trust root is there: what waits may be ready now. */
  reconsider(): void;
  /** Why the newest document was not believed; null when it was. */
  refusal(): Refusal | null;
  stop(): void;
};

/** What a document says, nothing verified; undefined when it says nothing. */
export const leafOf = (desired: Desired): DesiredLeaf | undefined => {
  try {
    return DesiredLeaf.safeParse(JSON.parse(desired.leaf)).data;
  } catch {
    return undefined;
  }
};

export const sameInstall = (offer: Offer, instruction: Instruction): boolean =>
  JSON.stringify(Instruction.parse(offer.install)) === JSON.stringify(Instruction.parse(instruction));

/** What a verified document means for the machine in its present state. */
const eventOf = (leaf: DesiredLeaf, state: InstallState): EventOf => {
  const { instruction, seq, expires } = leaf;
  if (instruction.kind === 'none') return { kind: 'withdrawn', seq };
  const offer = { seq, expires, install: instruction };
  if (state.state === 'idle') return { kind: 'offered', offer };
  return state.offer.install.deployment === instruction.deployment
    ? { kind: 'renewed', offer }
    : { kind: 'superseded' };
};

export const openInbox = (options: {
  trust: Pick<DeviceTrust, 'checkDesired' | 'hasRoot'>;
  memory: () => Memory;
  send: (event: EventOf) => void;
  backoff: Backoff;
  log: Log;
}): Inbox => {
  const { trust, memory, send, log } = options;
  let newest: { desired: Desired; leaf: DesiredLeaf } | undefined;
  let refusal: Refusal | null = null;
  let considering = false;
  let again = false;
  let attempt = 0;
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;

  const considerOnce = async (): Promise<void> => {
    const held = newest;
    if (held === undefined || !trust.hasRoot()) return;
    const { desiredSeq, install } = memory();
    if (held.leaf.seq <= desiredSeq) {
      newest = undefined; // Acted on already: servers say everything again at each connection.
      return;
    }
    if (install.state !== 'idle' && !isBeforeActivation(install)) return;
    const checked = await trust.checkDesired(held.desired);
    if (newest !== held) return;
    if (checked.ok) {
      refusal = null;
      attempt = 0;
      send(eventOf(checked.value, memory().install));
      return;
    }
    const { code, message } = checked;
    refusal = { seq: held.leaf.seq, code, message };
    log.warn(
      { event: 'desired-refused', code, seq: held.leaf.seq },
      `the desired document ${held.leaf.seq} is not believed: ${code}: ${message}`,
    );
    // Nothing that could come later makes it good; but a clock that is ahead may be set, and nobody says it again until then.
    if (code.startsWith('INSTRUCTION_') && code !== 'INSTRUCTION_EXPIRED') {
      newest = undefined;
      return;
    }
    timer = setTimeout(consider, backoffMs(attempt, options.backoff, Math.random()));
    attempt += 1;
  };

  const consider = (): void => {
    clearTimeout(timer);
    if (stopped) return;
    if (considering) {
      again = true;
      return;
    }
    considering = true;
    considerOnce()
      .catch((error: unknown) =>
        log.error({ event: 'desired-failed', err: error }, 'a desired document could not be checked'),
      )
      .finally(() => {
        considering = false;
        if (!again) return;
        again = false;
        consider();
      });
  };

  return {
    receive: (desired) => {
      const leaf = leafOf(desired);
      if (leaf === undefined) {
        log.warn({ event: 'desired-unreadable' }, 'a desired document could not be understood');
        return;
      }
      // Unverified, so a larger number must not keep a good document out for ever: the last to come is looked at.
      newest = { desired, leaf };
      consider();
    },
    reconsider: consider,
    refusal: () => refusal,
    stop: () => {
      stopped = true;
      clearTimeout(timer);
    },
  };
};
