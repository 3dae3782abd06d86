/**
 * A device that goes back to what it ran before, or tries again what it reverted, still holds it in its standby slot.
 * One that lost its journal after a commit is told to install what it runs.
 */

import type { Journey } from '../domain/install-state.ts';
import type { InSlot, PerformOptions } from './perform-parts.ts';

/**
 * Whether the standby slot holds exactly what is wanted, bootable, and every file of it reads from the disk as it was
 * written. A slot that turns out damaged is no longer bootable afterwards.
 */
export const isInstalled = async (
  { slots, log }: Pick<PerformOptions, 'slots' | 'log'>,
  { slot, offer }: InSlot,
  signal: AbortSignal,
): Promise<boolean> => {
  const inspected = await slots.inspect();
  // A forgotten trial of the slot has to be ended first, as `prepare` does.
  if (!inspected.ok || inspected.view.trial !== null) return false;
  const content = inspected.view.slots[slot];
  if (content.state !== 'bootable' || content.running.manifest !== offer.install.sha256) return false;
  const { version } = content.running;
  const verified = await slots.verify(slot, signal);
  if (signal.aborted) return false;
  if (verified.ok)
    log.info({ event: 'found-installed', slot }, `slot ${slot} holds ${version} already: nothing is fetched`);
  else log.warn({ event: 'found-damaged', slot }, `slot ${slot} held ${version}, and is damaged: ${verified.message}`);
  return verified.ok;
};

/** Whether exactly what is wanted is committed, and runs. */
export const isRunning = async (
  { slots, log }: Pick<PerformOptions, 'slots' | 'log'>,
  { offer }: Journey,
): Promise<boolean> => {
  const inspected = await slots.inspect();
  if (!inspected.ok || inspected.view.trial !== null || inspected.view.active === null) return false;
  const { active } = inspected.view;
  const content = inspected.view.slots[active];
  if (content.state !== 'bootable' || content.running.manifest !== offer.install.sha256) return false;
  if ((await slots.running())?.slot !== active) return false;
  log.info({ event: 'found-running', slot: active }, `${content.running.version} runs already, committed`);
  return true;
};
