/** Records for store tests: small, valid, each with only what a test says about it. */

import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { AuditLine } from '#server/store/audit.ts';
import type { BundleRecord } from '#server/store/catalogue.ts';
import type { DeviceRecord } from '#server/store/devices.ts';
import type { HeartbeatRow, ReportRow } from '#server/store/ingest.ts';
import type { OfferRequest, RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import type { Desired } from '#shared/messages.ts';
import { Policy } from '#shared/policy.ts';

export const T0 = 1_700_000_000_000;
export const id = (text: string): Id => Id.parse(text);
/** A digest that is easy to tell from others. */
export const digest = (seed: number): Sha256 => Sha256.parse(seed.toString(16).padStart(64, '0'));
export const line = (kind: string, fields: object = {}): AuditLine => ({
  payload: JSON.stringify({ kind, ...fields }),
});
export const kindsOf = async (store: Store): Promise<string[]> =>
  (await store.readAudit(-1, 10_000)).map((entry) => String(JSON.parse(entry.payload).kind));

export const bundle = (version: string, compatible: string, seed: number, metadataVersion = 1): BundleRecord => ({
  product: id('gateway'),
  version,
  compatible: id(compatible),
  path: `fw/gateway/${version}/${compatible}.json`,
  manifestSha256: digest(seed),
  manifestBytes: 400,
  manifest: Manifest.parse({
    format: 1,
    product: 'gateway',
    version,
    compatible,
    securityCounter: 0,
    artifacts: [{ name: 'app', bytes: 10, sha256: digest(seed + 1000), install: { kind: 'file', path: 'app' } }],
    attachments: [{ kind: 'sbom', name: 'sbom.json', bytes: 3, sha256: digest(seed + 2000) }],
  }),
  metadataVersion,
  acceptedAt: T0,
  acceptedBy: 'ci',
});

export const GATEWAY = { name: id('gateway'), keys: ['-----BEGIN PUBLIC KEY-----'], createdAt: T0 };
export const metadata = (version: number) => ({ product: id('gateway'), version, document: `{"version":${version}}` });

export const device = (
  name: string,
  more: Partial<Pick<DeviceRecord, 'publicKey' | 'compatible' | 'attributes'>> = {},
): Pick<DeviceRecord, 'id' | 'publicKey' | 'compatible' | 'attributes' | 'enrolledAt'> => ({
  id: id(name),
  publicKey: digest(7),
  compatible: id('gw2'),
  attributes: {},
  enrolledAt: T0,
  ...more,
});
/** Enrols and accepts the devices. */
export const enrolFleet = async (store: Store, names: readonly string[]): Promise<void> => {
  for (const name of names) {
    await store.enrolDevice(device(name), null, T0, line('device-enrolled', { device: name }));
    await store.setDeviceState(id(name), 'accepted', T0, line('device-accepted', { device: name }));
  }
};

export const rollout = (name: string): RolloutRecord => ({
  plan: {
    id: id(name),
    product: id('gateway'),
    version: '1.0.0',
    channel: id('production'),
    cohorts: [],
    policy: Policy.parse({}),
    waveSizes: [1],
    createdAt: T0,
    createdBy: 'olga',
  },
  progress: { state: 'running', wave: 0, waveSince: T0, gateSince: null, hold: null },
  nextTickAt: T0,
  revision: 0,
});
export const planned = (
  rolloutName: string,
  deviceName: string,
  more: Partial<DeploymentRecord> = {},
): DeploymentRecord => ({
  id: id(`${rolloutName}-${deviceName}`),
  rollout: id(rolloutName),
  device: id(deviceName),
  cohort: id('everyone'),
  compatible: id('gw2'),
  wave: 0,
  position: 0,
  state: 'planned',
  offeredAt: null,
  acceptedAt: null,
  decidedAt: null,
  stateAt: T0,
  deadlineAt: null,
  overdue: null,
  heldUntil: null,
  error: null,
  revision: 0,
  ...more,
});
/** These devices in its first wave, in this order. */
export const plan = async (store: Store, name: string, devices: readonly string[]): Promise<void> =>
  store.createRollout(
    rollout(name),
    devices.map((one, position) => planned(name, one, { position })),
    [line('rollout-planned', { rollout: name })],
  );
/** By device. */
export const statesOf = async (store: Store, name: string): Promise<Record<string, string>> =>
  Object.fromEntries(
    (await store.listDeployments({ rollout: id(name) }, { limit: 100 })).map((one) => [one.device, one.state]),
  );
/** Of the audit log. */
export const lastLine = async (store: Store): Promise<unknown> =>
  JSON.parse((await store.readAudit((await store.getAuditHead()).size - 2, 1))[0]!.payload);
export const outboxOf = async (store: Store) => (await store.takeOutbox(100)).map(({ effect }) => effect);

export const RELEASED = digest(500);
export const offer = (name: string, more: Partial<OfferRequest> = {}): OfferRequest => ({
  wave: 0,
  cohort: id('everyone'),
  compatible: id('gw2'),
  atMost: 100,
  acceptBy: T0 + 60_000,
  instruction: {
    kind: 'install',
    rollout: id(name),
    product: id('gateway'),
    version: '1.0.0',
    compatible: id('gw2'),
    securityCounter: 0,
    path: 'fw/gateway/1.0.0/gw2.json',
    sha256: RELEASED,
    length: 400,
  },
  ...more,
});
/** One save of a rollout, with the revision that is stored now. */
export const save = async (
  store: Store,
  name: string,
  more: Partial<Parameters<Store['saveRollout']>[0]> = {},
): ReturnType<Store['saveRollout']> => {
  const stored = await store.getRollout(id(name));
  return store.saveRollout({
    rollout: stored!,
    offers: [],
    withdraw: null,
    replan: false,
    audit: [],
    now: T0,
    ...more,
  });
};

export const running = (manifest: Sha256 = RELEASED) => ({
  product: id('gateway'),
  version: '1.0.0',
  manifest,
  slot: 'a' as const,
});
export const report = (name: string, seq: number, more: Partial<ReportRow> = {}): ReportRow => ({
  device: id(name),
  publicKey: digest(7),
  boot: id('boot-1'),
  seq,
  at: T0 + seq,
  agent: '1.0.0',
  running: null,
  floor: 0,
  attributes: {},
  deployments: [],
  audit: [],
  ...more,
});
export const heartbeat = (name: string, at: number, more: Partial<HeartbeatRow> = {}): HeartbeatRow => ({
  device: id(name),
  boot: id('boot-1'),
  at,
  running: null,
  healthy: true,
  ...more,
});
export const desiredDocument = (seq: number): Desired => ({
  leaf: `{"seq":${seq}}`,
  index: 0,
  proof: [],
  batch: { payload: '{}', keyId: digest(1), sig: 'ab' },
});
