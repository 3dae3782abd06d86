/**
 * A device as the server hears it: numbered state reports, receipts that it signs, heartbeats. It does what it is told
 * by the test.
 */

import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { receiveReports } from '#server/flow/device/receive-report.ts';
import type { AgentState, DeviceErrorCode, Outcome, Running } from '#shared/deployment.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import type { StateReport } from '#shared/messages.ts';
import { signPayload } from '#shared/trust/signed.ts';
import { deploymentsOf, GATEWAY, type World } from '../world.ts';

const OLD_MANIFEST = Sha256.parse('0'.repeat(64));
const BOOT = Id.parse('boot-1');

export const speakingDevice = (world: World, rollout: Id, device: Id) => {
  let seq = 0;
  const deployment = async (): Promise<DeploymentRecord> => {
    const found = (await deploymentsOf(world, rollout)).find((one) => one.device === device);
    if (found === undefined) throw new Error(`no deployment of ${device}`);
    return found;
  };
  const report = async (more: Partial<StateReport>): Promise<void> => {
    seq += 1;
    const common = { v: 1, boot: BOOT, at: world.now(), agent: 'test', floor: 0, desiredSeq: 0 } as const;
    const rest = { running: null, deployment: null, receipts: [], attributes: {} };
    const said: StateReport = { ...common, seq, ...rest, ...more };
    const received = await receiveReports({ store: world.store, now: world.now, mayTell: () => true }, [
      { device, report: said },
    ]);
    if (received.refusedReceipts.length > 0) throw new Error(JSON.stringify(received.refusedReceipts));
  };
  const running = async (version: string): Promise<Running> => {
    const manifest = (await world.store.getRelease(GATEWAY, version))?.bundles[0]?.manifestSha256 ?? OLD_MANIFEST;
    return { product: GATEWAY, version, manifest, slot: 'a' };
  };
  const errorOf = (code: DeviceErrorCode | undefined) =>
    code === undefined ? {} : { error: { code, message: 'so it was' } };
  const attemptOf = (attempt: number) => (attempt === 1 ? {} : { attempt });
  return {
    deployment,
    running,
    /** What it says of its deployment, on its way; `version`: what it runs there. */
    async is(state: AgentState, attempt = 1, version?: string): Promise<void> {
      const said = { id: (await deployment()).id, state, since: world.now(), ...attemptOf(attempt) };
      await report({ deployment: said, running: version === undefined ? null : await running(version) });
    },
    /** It failed, and has not signed its receipt yet. */
    async fails(code: DeviceErrorCode, attempt: number): Promise<void> {
      const { id } = await deployment();
      const at = { state: 'failed' as const, since: world.now() };
      await report({ deployment: { id, ...at, ...errorOf(code), ...attemptOf(attempt) } });
    },
    /** Nothing goes on. */
    idles: async (version: string): Promise<void> => report({ running: await running(version) }),
    /** The report with the receipt, as it is repeated: the very same receipt, in a new report. */
    async ends(outcome: Outcome, code?: DeviceErrorCode, attempt = 1): Promise<() => Promise<void>> {
      const { id } = await deployment();
      const record = await world.store.getRollout(rollout);
      const { product, version } = record!.plan;
      const { manifest } = await running(version);
      const error = errorOf(code);
      const now = await running(outcome === 'committed' ? version : '0.9.0');
      const receipt = signPayload(world.ci, {
        type: 'sluice/receipt/1',
        device,
        deployment: id,
        rollout,
        product,
        version,
        manifest,
        outcome,
        ...error,
        ...attemptOf(attempt),
        running: now,
        boot: BOOT,
        seq: seq + 1,
        at: world.now(),
      });
      const again = (): Promise<void> =>
        report({
          running: now,
          deployment: { id, state: outcome, since: world.now(), ...error, ...attemptOf(attempt) },
          receipts: [receipt],
        });
      await again();
      return again;
    },
    heartbeat: async (version: string): Promise<void> =>
      world.store.saveHeartbeats([
        { device, boot: BOOT, at: world.now(), running: await running(version), healthy: true },
      ]),
  };
};
