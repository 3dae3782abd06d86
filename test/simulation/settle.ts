/** Liveness: with the faults off everything ends, and everyone knows. */
import type { Device } from './agent.ts';
import type { People } from './people.ts';
import type { Rows } from './rows.ts';
import { notBack } from './rules-recall.ts';
import type { Witness } from './witness.ts';
import type { World } from './world.ts';

const MINUTE_MS = 60_000;
/**
 * With the faults off, everything has to end within this time: several waves, each in a window that opens every other
 * hour.
 */
const LIVE_MS_MAX = 12 * 60 * MINUTE_MS;
/** Once nothing is under way, nothing but a recall may begin anything, and has to soon. */
const RECALLED_MS_MAX = 10 * MINUTE_MS;

type Settling = {
  world: World;
  rows: Rows;
  devices: Device[];
  people: People;
  witness: Witness;
  over: () => boolean;
};

export const settleAll = async ({ world, rows, devices, people, witness, over }: Settling): Promise<void> => {
  const { time } = world;
  const end = time.now() + LIVE_MS_MAX;
  let until = end;
  let why = '';
  while (time.now() < until) {
    people.settle();
    if (!(await time.runUntil(time.now() + 2 * MINUTE_MS, over))) return;
    const underWay = unsettled(rows, devices);
    why = underWay || notBack({ world, rows, devices, witness });
    if (why === '') break;
    until = underWay === '' ? Math.min(until, time.now() + RECALLED_MS_MAX) : end;
  }
  witness.recount();
  if (why !== '') return world.violate(`with the faults off for long enough: ${why}`);
  for (const { row } of witness.deployments.values())
    if (row.state === 'committed' && ![...witness.receipts].some((receipt) => receipt.includes(`"${row.id}"`)))
      return world.violate(`${row.id} is committed without a receipt`);
  world.tell('everything has ended');
};

/** The first thing that has not ended, in words; empty when all has. */
const unsettled = (rows: Rows, devices: Device[]): string => {
  for (const { plan, progress } of rows.rollouts()) {
    if (progress.state !== 'completed' && progress.state !== 'aborted')
      return `rollout ${plan.id} is ${progress.state}`;
    const left = rows.deployments({ rollout: plan.id }).find((row) => UNDER_WAY.has(row.state));
    if (left !== undefined) return `deployment ${left.id} is ${left.state}`;
  }
  if (!rows.isOutboxEmpty()) return 'the outbox is not empty';
  for (const { id, disk, memory } of devices) {
    const state = memory()?.install.state ?? 'off';
    if (state !== 'idle') return `${id} is ${state}`;
    const record = rows.device(id);
    if (record?.deployment !== null) return `${id} is owned by ${record?.deployment}`;
    const runs = disk.contents[disk.active]?.manifest;
    if (record.running?.manifest !== runs)
      return `${id} runs ${runs}, and the server believes ${record.running?.manifest}`;
  }
  return '';
};
const UNDER_WAY: ReadonlySet<string> = new Set(['planned', 'offered', 'fetching', 'installing', 'ready', 'trial']);
