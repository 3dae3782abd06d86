/**
 * When a device that cannot reach its server may activate unconfirmed:
 * docs/decisions/0008-activation-without-the-server.md.
 */
import type { Offer } from './install-state.ts';

export type Unreached = {
  /** Trusted time; undefined when the clock cannot be believed. */
  trusted: number | undefined;
  /** How long the server has answered nothing, since it was first asked whether the offer stands; 0 when it has. */
  silentMs: number;
  /** How often it was asked in that time. */
  asked: number;
  /**
   * The release proves its health by reaching the server: offline its trial could only fail, and would be held against
   * it.
   */
  serverContact: boolean;
};

export const ASKED_MIN = 3;

/** Only where the signed instruction allows it, has not expired, and the server was really looked for. */
export const mayActivateUnconfirmed = (
  { install, expires }: Pick<Offer, 'install' | 'expires'>,
  { trusted, silentMs, asked, serverContact }: Unreached,
  unreachableMs: number,
): boolean =>
  install.confirm === 'when-reachable' &&
  !serverContact &&
  trusted !== undefined &&
  trusted < expires &&
  asked >= ASKED_MIN &&
  silentMs >= unreachableMs;
