/** What must hold of what a device does, against what the server knows at that moment. */
import type { Id } from '#shared/ids.ts';
import type { Device, Verified, Watch } from './agent.ts';
import { isOpen, windowsOf } from './open-windows.ts';
import type { Rows } from './rows.ts';
import type { Server } from './server.ts';
import type { Witness } from './witness.ts';
import type { World } from './world.ts';

/** From the server's answer to the journal's record of it: an answer may be late, and a disk full for a while. */
const CONFIRMED_MS_MAX = 180_000;
/** A server's clock may be so far off, and step so far while a device waits by its word. */
const CLOCKS_MS = 120_000;

export const watchOf = (world: World, rows: Rows, server: Server, witness: Witness): Watch => {
  const activating = (device: Device, deployment: Id, newest: Verified | null): void => {
    const { id } = device;
    const seen = witness.deployments.get(deployment);
    const now = world.time.now();
    const refuse = (what: string): void => world.violate(`${id} activates ${deployment} ${what}`);
    if (seen === undefined) return refuse('which the server does not know');
    const { row, committed } = seen;
    const supersedes =
      newest !== null && (newest.instruction.kind === 'none' || newest.instruction.deployment !== deployment);
    // It may be that the word came while the journal was being written.
    if (supersedes && newest.at < now - 2_000)
      return refuse(`although its withdrawal reached it ${now - newest.at} ms ago`);
    const asked = server.askedAt.get(id);
    const plan = rows.rollout(row.rollout)?.plan;
    const isAsked = asked !== undefined && now - asked <= CONFIRMED_MS_MAX;
    // Where its policy says so, a device that finds no one to ask goes by what it was told last.
    if (!isAsked && plan?.policy.confirm === 'when-reachable') return;
    if (asked === undefined || !isAsked) return refuse('without having asked whether the offer still stands');
    // A device that ran the release for good already, and forgot it with the journal, is not a new device.
    if (!committed) {
      const stoppedAt = witness.stoppedAt(row.rollout);
      const ended = row.state === 'withdrawn' || row.state === 'reverted' || row.state === 'failed';
      // A pause lets those go on who have their offer; a trial that is under way may be started again by a device that
      // forgot it.
      if (stoppedAt !== undefined && ended && asked > stoppedAt)
        return refuse(': it asked after the rollout had stopped, and was told to go on');
      if (stoppedAt !== undefined && !witness.toldWhenStopped(row.rollout).has(deployment))
        return refuse(': it was told after the rollout had stopped');
    }
    checkTime(device, row.rollout, row.cohort, asked, now, refuse);
  };

  /** Nothing activates outside of its window, or before its activation time. */
  const checkTime = (
    { timeZone }: Device,
    rollout: Id,
    cohort: Id,
    asked: number,
    now: number,
    refuse: (what: string) => void,
  ): void => {
    const plan = rows.rollout(rollout)?.plan;
    if (plan === undefined) return;
    const graceMs = now - asked + 2 * CLOCKS_MS;
    if (!isOpen(windowsOf(plan, cohort), timeZone, now + CLOCKS_MS, graceMs))
      return refuse('outside of its maintenance window');
    const { activation } = plan.policy;
    if (activation === 'at-once' || plan.activatedAt !== undefined) return;
    if (activation === 'on-command') return refuse('which no one told it to');
    if (now + CLOCKS_MS < activation) refuse(`${activation - now} ms before its time`);
  };

  return {
    activating,
    reported: (device, receipt) => {
      if (!witness.receipts.has(receipt))
        world.violate(`${device} takes its receipt for delivered, and the server does not have it: ${receipt}`);
    },
  };
};
