/** With the faults off, a device that runs a release because of a recalled rollout is back, or it is said why not. */
import { recalledOf } from '#server/domain/rollout/recall.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Device } from './agent.ts';
import type { Rows } from './rows.ts';
import type { Seen } from './rules-rows.ts';
import type { Witness } from './witness.ts';
import type { World } from './world.ts';

type Known = { world: World; rows: Rows; devices: Device[]; witness: Witness };

/** It ran the release by this rollout, and by no other since. */
const ranBy = ({ row }: Seen, all: readonly Seen[]): boolean =>
  (row.state === 'committed' || (row.state === 'failed' && row.error?.code === 'REGRESSED')) &&
  !all.some(
    (other) =>
      other.row.device === row.device &&
      other.row.rollout !== row.rollout &&
      other.row.state === 'committed' &&
      (other.row.decidedAt ?? 0) > (row.decidedAt ?? 0),
  );

/** The first who was forgotten, in words; empty when no one was. */
export const notBack = ({ world, rows, devices, witness }: Known): string => {
  const all = [...witness.deployments.values()];
  const rollouts = rows.rollouts();
  for (const { plan, progress } of rollouts) {
    const recalled = recalledOf(progress);
    if (recalled === undefined) continue;
    const said = new Set(
      witness.log.flatMap(({ kind, rollout, at, devices: named = [] }) =>
        kind === 'recall-stays' && rollout === plan.id && at >= recalled.at ? named : [],
      ),
    );
    for (const seen of all.filter(({ row }) => row.rollout === plan.id)) {
      const { device: id, compatible } = seen.row;
      const device = devices.find((one) => one.id === id);
      const runs = device?.disk.contents[device.disk.active]?.manifest;
      if (runs !== world.releases.get(plan.version)?.manifests.get(compatible) || said.has(id)) continue;
      if (ranBy(seen, all) && !wasSentBack(seen, all, rollouts))
        return `${id} runs ${plan.version}, rollout ${plan.id} was recalled, and nothing says why it stays`;
    }
  }
  return '';
};

/** By a rollout of the recall, however that ended: its deployment says. */
const wasSentBack = ({ row }: Seen, all: readonly Seen[], rollouts: readonly RolloutRecord[]): boolean =>
  all.some(
    (back) =>
      back.row.device === row.device &&
      rollouts.some(({ plan }) => plan.id === back.row.rollout && plan.recalls === row.rollout),
  );
