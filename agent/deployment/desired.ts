/**
 * Desired documents as they arrive: pushed, polled or asked for, perhaps twice or out of order. Only the newest
 * matters. One that is not verified never reaches the state machine; one that comes while a version is on trial waits
 * here until that has ended.
 */
import type { DeviceErrorCode } from '#shared/deployment.ts';
import { type Desired, DesiredLeaf, Instruction } from '#shared/messages.ts';
import { type Backoff, backoffMs } from '../domain/backoff.ts';
import { isBeforeActivation } from '../domain/install.ts';
import type { InstallState, Offer } from '../domain/install-state.ts';
import type { Memory } from '../domain/memory.ts';
import { spreadBackoff } from '../domain/spread.ts';
import type { Log } from '../log.ts';
import type { DeviceTrust } from '../trust/device-trust.ts';
import type { EventOf } from './machine.ts';

/**
 * Why the newest document is not acted on: `code` is one of `DEVICE_ERRORS`, or `BUSY` while an earlier instruction is
 * past the point of return. `seq`: null where it cannot be read.
 */
export type Refusal = { seq: number | null; code: DeviceErrorCode | 'BUSY'; message: string };

export type Inbox = {
  /** Undefined: something came that cannot be understood. */
  receive: (desired: Desired | undefined) => void;
  /** The state has changed, or the trust root is there: what waits may be ready now. */
  reconsider(): void;
  /** Null when the newest document is acted on, and when none came. */
  refusal: () => Refusal | null;
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

/** The same refusal is logged again after so long, since logs are rotated. */
const LOGGED_AGAIN_MS = 3_600_000;
/** A document that is older than the newest one may be late for so long; later it is what the server says now. */
const LATE_MS_MAX = 60_000;

export const openInbox = (options: {
  trust: Pick<DeviceTrust, 'checkDesired'>;
  memory: () => Memory;
  send: (event: EventOf) => void;
  /** There is another refusal, or none any more. */
  changed?: () => void;
  backoff: Backoff;
  /** Over how long the fleet comes back while the server is lost. Default 0. */
  spreadMs?: () => number;
  log: Log;
}): Inbox => {
  const { trust, memory, send, log } = options;
  let newest: { desired: Desired; leaf: DesiredLeaf } | undefined;
  let refusal: Refusal | null = null;
  let loggedAt = Number.NEGATIVE_INFINITY;
  /** When the document that was acted on last was said again. */
  let currentAt = Number.NEGATIVE_INFINITY;
  let considering = false;
  let again = false;
  let attempt = 0;
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;

  const refuse = (next: Refusal): void => {
    const isNew = refusal?.code !== next.code || refusal.seq !== next.seq;
    refusal = next;
    const { seq, code, message } = next;
    if (isNew || performance.now() - loggedAt >= LOGGED_AGAIN_MS) {
      loggedAt = performance.now();
      const which = seq === null ? 'a desired document' : `the desired document ${seq}`;
      const text = `${which} is not acted on: ${code}: ${message}`;
      if (code === 'BUSY') log.info({ event: 'desired-waits', code, seq }, text);
      else log.warn({ event: 'desired-refused', code, seq }, text);
    }
    if (isNew) options.changed?.();
  };
  const settled = (): void => {
    attempt = 0;
    if (refusal === null) return;
    log.info({ event: 'desired-refusal-over', code: refusal.code }, `no longer so: ${refusal.code}`);
    refusal = null;
    options.changed?.();
  };
  const later = (): void => {
    if (stopped) return;
    const backoff = spreadBackoff(options.backoff, options.spreadMs?.() ?? 0);
    timer = setTimeout(consider, backoffMs(attempt, backoff, Math.random()));
    attempt += 1;
  };

  const considerOnce = async (): Promise<void> => {
    const held = newest;
    if (held === undefined) return;
    const { desiredSeq, install } = memory();
    const { seq } = held.leaf;
    // Acted on already: servers say everything again at each connection.
    if (seq === desiredSeq) {
      newest = undefined;
      currentAt = performance.now();
      return settled();
    }
    if (seq < desiredSeq) {
      newest = undefined;
      if (performance.now() - currentAt < LATE_MS_MAX) return;
      const message = `its number is ${seq}, but ${desiredSeq} was accepted already`;
      return refuse({ seq, code: 'INSTRUCTION_REPLAY', message });
    }
    if (install.state !== 'idle' && !isBeforeActivation(install)) {
      const message = `it waits until the deployment that is in state ${install.state} has ended`;
      return refuse({ seq, code: 'BUSY', message });
    }
    const checked = await trust.checkDesired(held.desired);
    if (newest !== held) return;
    if (checked.ok) {
      currentAt = performance.now();
      settled();
      return send(eventOf(checked.value, memory().install));
    }
    const { code, message } = checked;
    refuse({ seq, code, message });
    // Nothing that could come later makes it good; but a clock that is ahead may be set, and no one says it again until
    // then.
    if (code.startsWith('INSTRUCTION_') && code !== 'INSTRUCTION_EXPIRED') newest = undefined;
    else later();
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
      .catch((error: unknown) => {
        log.error({ event: 'desired-failed', err: error }, 'a desired document could not be checked');
        const reason = error instanceof Error ? error.message : String(error);
        refuse({ seq: newest?.leaf.seq ?? null, code: 'WRITE_FAILED', message: `it could not be checked: ${reason}` });
        later();
      })
      .finally(() => {
        considering = false;
        if (!again) return;
        again = false;
        consider();
      });
  };

  return {
    receive: (desired) => {
      const leaf = desired === undefined ? undefined : leafOf(desired);
      if (desired === undefined || leaf === undefined) {
        refuse({ seq: null, code: 'INSTRUCTION_FORMAT', message: 'it cannot be understood' });
        return;
      }
      // Unverified, so a larger number must not keep a good document out forever: the last to come is looked at.
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
