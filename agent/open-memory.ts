/** What the agent knows when it starts. */

import { readFloor } from './deployment/floor.ts';
import { type Journal, openJournal } from './deployment/journal.ts';
import { makingWay } from './deployment/make-way.ts';
import { keepingReportSeq, readReportSeq } from './deployment/report-numbers.ts';
import type { Disk } from './disk/disk.ts';
import type { InstallState } from './domain/install-state.ts';
import type { Memory } from './domain/memory.ts';
import { rebuildMemory } from './domain/restart-evidence.ts';
import type { Slots } from './domain/slots.ts';
import type { Log } from './log.ts';

/** The memory from the journal; or, when that is new or lost, what the slots know. */
export const openMemory = async (
  dataDir: string,
  slots: Slots,
  log: Log,
  now: () => number,
  missed?: Disk['missed'],
): Promise<{ journal: Journal; memory: Memory; makeWay: (install: InstallState) => Promise<void> }> => {
  const opened = await openJournal(dataDir);
  if (opened.damage !== null) log.error({ event: `journal-${opened.damage.kind}` }, opened.damage.message);
  const [floor, reportSeq] = [await readFloor(dataDir), await readReportSeq(dataDir)];
  const numbering = keepingReportSeq(dataDir, opened.journal, reportSeq);
  const { journal, makeWay } = makingWay(dataDir, slots, numbering, missed);
  if (opened.memory !== undefined) {
    // A data folder that was put back from a backup knows only old numbers, and the clock newer ones.
    const numbers = Math.max(opened.memory.reportSeq, reportSeq, Math.floor(now()));
    return {
      journal,
      makeWay,
      memory: { ...opened.memory, floor: Math.max(opened.memory.floor, floor), reportSeq: numbers },
    };
  }
  const inspected = await slots.inspect();
  if (!inspected.ok) log.error({ event: 'slots-damaged', code: inspected.code }, inspected.message);
  const nothing = {
    active: null,
    trial: null,
    slots: { a: { state: 'unbootable' }, b: { state: 'unbootable' } },
  } as const;
  const rebuilt = rebuildMemory(inspected.ok ? inspected.view : nothing, floor, now());
  if (rebuilt.revert) {
    log.error(
      { event: 'trial-forgotten', code: 'JOURNAL_LOST' },
      'the rules of the pending trial are lost with the journal: going back to what ran before',
    );
    const reverted = await slots.revert();
    if (!reverted.ok) log.error({ event: 'revert-failed', code: reverted.code }, reverted.message);
  }
  const memory = { ...rebuilt.memory, reportSeq: Math.max(rebuilt.memory.reportSeq, reportSeq) };
  // A full disk must not keep the application from starting; no number is used before it is recorded.
  await journal.append(memory).catch((error: unknown) => {
    log.error({ event: 'journal-not-written', err: error }, 'the journal cannot be begun yet');
  });
  return { journal, memory, makeWay };
};
