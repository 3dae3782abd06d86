/**
 * What is stored, as the witness and the people of a simulation see it: read from the tables at once, and not through
 * the methods that are tried.
 */
import type Database from 'better-sqlite3';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { AuditEntry } from '#server/store/audit.ts';
import type { ReleaseState } from '#server/store/catalogue.ts';
import type { DeviceRecord } from '#server/store/devices.ts';
import { type DeploymentRow, deploymentColumns, toDeployment } from '#server/store/methods/deployments.ts';
import { DEVICE_COLUMNS, type DeviceRow, toDevice } from '#server/store/methods/devices.ts';
import { ROLLOUT_COLUMNS, type RolloutRow, toRollout } from '#server/store/methods/rollouts.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Id } from '#shared/ids.ts';

export type Count = { wave: number; state: string; overdue: string | null; devices: number };

export type Rows = {
  /** Newest first. */
  rollouts(): RolloutRecord[];
  rollout(id: Id): RolloutRecord | undefined;
  release(product: string, version: string): ReleaseState | undefined;
  devices(): DeviceRecord[];
  device(id: Id): DeviceRecord | undefined;
  drifts(device: Id): boolean;
  /** In the order in which they were planned. */
  deployments(of: { rollout: Id } | { device: Id } | { ids: readonly Id[] }): DeploymentRecord[];
  /** The counters that are kept, and not what they should be. */
  counters(rollout: Id): Count[];
  audit(after: number): AuditEntry[];
  isOutboxEmpty(): boolean;
};

export const readRows = (database: Database.Database): Rows => {
  const statements = new Map<string, Database.Statement>();
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- SQL has no types to infer it from
  const all = <Row>(statement: string, ...values: unknown[]): Row[] => {
    const known = statements.get(statement) ?? database.prepare(statement);
    statements.set(statement, known);
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- see above
    return known.all(...values) as Row[];
  };
  const deployments = (condition: string, value: string): DeploymentRecord[] =>
    all<DeploymentRow>(
      `SELECT ${deploymentColumns('deployments')} FROM deployments WHERE ${condition} ORDER BY n`,
      value,
    ).map(toDeployment);
  return {
    rollouts: () => all<RolloutRow>(`SELECT ${ROLLOUT_COLUMNS} FROM rollouts ORDER BY n DESC`).map(toRollout),
    rollout: (id) => all<RolloutRow>(`SELECT ${ROLLOUT_COLUMNS} FROM rollouts WHERE id = ?`, id).map(toRollout)[0],
    release: (product, version) =>
      all<{ progress: string }>(
        'SELECT progress FROM releases WHERE product = ? AND version = ?',
        product,
        version,
      ).map(({ progress }): ReleaseState => JSON.parse(progress))[0],
    devices: () => all<DeviceRow>(`SELECT ${DEVICE_COLUMNS} FROM devices ORDER BY id`).map(toDevice),
    device: (id) => all<DeviceRow>(`SELECT ${DEVICE_COLUMNS} FROM devices WHERE id = ?`, id).map(toDevice)[0],
    drifts: (device) =>
      all(
        "SELECT 1 FROM devices WHERE id = ? AND drifted_at IS NOT NULL AND running IS NOT NULL AND state = 'accepted'",
        device,
      ).length > 0,
    deployments: (of) => {
      if ('rollout' in of) return deployments('rollout = ?', of.rollout);
      if ('device' in of) return deployments('device = ?', of.device);
      return deployments('id IN (SELECT value FROM json_each(?))', JSON.stringify(of.ids));
    },
    counters: (rollout) =>
      all<Count>(
        "SELECT wave, state, nullif(overdue, '') AS overdue, devices FROM deployment_counts WHERE rollout = ?",
        rollout,
      ),
    audit: (after) =>
      all<AuditEntry>('SELECT n AS "index", payload FROM audit WHERE n > ? ORDER BY n LIMIT 1000', after),
    isOutboxEmpty: () => all('SELECT 1 FROM outbox LIMIT 1').length === 0,
  };
};
