import { afterEach, beforeEach, expect, test } from 'vitest';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { type Ingest, type IngestDeps, makeIngest } from '#server/flow/device/ingest.ts';
import type { Receipt } from '#shared/deployment.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import type { Heartbeat, Signed, StateReport } from '#shared/messages.ts';
import { signPayload } from '#shared/trust/signed.ts';
import type { Signer } from '#shared/trust/signers.ts';
import {
  deploymentsOf,
  deviceOf,
  enrolFleet,
  GATEWAY,
  kindsOf,
  newSigner,
  releaseOf,
  startRollout,
  worldOfEachTest,
} from '../world.ts';

const GW1 = Id.parse('gw-1');
const BOOT = Id.parse('boot-1');
const world = worldOfEachTest();
let ingest: Ingest;
let acks: string[];
let counted: Map<string, number>;
let woken: Id[];
let kept: string[];
let complaints: string[];
let rollout: Id;

/** Everything real but the connection, the log and the counters, which keep what they were told. */
const depsOf = (store: IngestDeps['store']): IngestDeps => ({
  store,
  now: world.now,
  link: {
    acknowledge: (device, { boot, seq, highest }) =>
      void acks.push(`${device} ${boot} ${seq}${highest === undefined ? '' : ` of ${highest}`}`),
  },
  observer: {
    message: (kind, outcome, count = 1) => {
      const name = `${kind} ${outcome}`;
      counted.set(name, (counted.get(name) ?? 0) + count);
    },
    ingested: () => {},
    refused: () => {},
    takenOver: () => undefined,
    keyShared: () => undefined,
    receiptRefused: () => void counted.set('receipt refused', (counted.get('receipt refused') ?? 0) + 1),
  },
  log: {
    info: () => {},
    warn: (facts: { event?: string }) => void complaints.push(String(facts.event)),
    error: (facts: { event?: string }) => void complaints.push(String(facts.event)),
  },
  keepLog: (device, { id }) => void kept.push(`${device} ${id}`),
  wake: (id) => void woken.push(id),
});

beforeEach(async () => {
  acks = [];
  counted = new Map();
  woken = [];
  kept = [];
  complaints = [];
  await releaseOf(world, '1.0.0');
  await enrolFleet(world, 3);
  rollout = await startRollout(world, '1.0.0');
  ingest = makeIngest(depsOf(world.store));
});
afterEach(() => ingest.stop());

const deploymentOf = async (device: Id): Promise<DeploymentRecord> => {
  const found = (await deploymentsOf(world, rollout)).find((one) => one.device === device);
  if (found === undefined) throw new Error(`no deployment of ${device}`);
  return found;
};
const manifestOf = async (): Promise<Sha256> => {
  const release = await world.store.getRelease(GATEWAY, '1.0.0');
  return release!.bundles[0]!.manifestSha256;
};
const receiptOf = async (more: Partial<Receipt> = {}, signer: Signer = world.ci): Promise<Signed> => {
  const deployment = await deploymentOf(GW1);
  const manifest = await manifestOf();
  return signPayload(signer, {
    type: 'sluice/receipt/1',
    device: GW1,
    deployment: deployment.id,
    rollout,
    product: 'gateway',
    version: '1.0.0',
    manifest,
    outcome: 'committed',
    running: { product: 'gateway', version: '1.0.0', manifest, slot: 'b' },
    boot: BOOT,
    seq: 1,
    at: world.now(),
    ...more,
  });
};
const reportOf = (seq: number, more: Partial<StateReport> = {}): StateReport => ({
  v: 1,
  boot: BOOT,
  seq,
  at: world.now(),
  agent: '1.0.0',
  running: null,
  floor: 0,
  desiredSeq: 0,
  deployment: null,
  receipts: [],
  attributes: { 'os.name': 'linux' },
  ...more,
});
const said = (
  deployment: Pick<DeploymentRecord, 'id'>,
  state: NonNullable<StateReport['deployment']>['state'],
): StateReport['deployment'] => ({ id: deployment.id, state, since: world.now() });
const bytesOf = (message: object): Buffer => Buffer.from(JSON.stringify(message));
const report = async (message: StateReport, device = GW1): Promise<void> => {
  ingest.message(device, 'state', bytesOf(message));
  await ingest.flush();
};
const heartbeat = (more: Partial<Heartbeat> = {}): Buffer =>
  bytesOf({
    v: 1,
    boot: BOOT,
    at: 0,
    uptimeMs: 1,
    running: null,
    desiredSeq: 0,
    deployment: null,
    healthy: true,
    ...more,
  } satisfies Heartbeat);

test('a heartbeat says what runs, and when the device was heard by the server clock', async () => {
  ingest.message(GW1, 'heartbeat', heartbeat({ healthy: false, at: 12 }));
  ingest.message(GW1, 'heartbeat', heartbeat({ healthy: true, at: 13 }));
  await ingest.flush();
  expect(await deviceOf(world, GW1)).toMatchObject({ healthy: true, boot: BOOT, lastSeenAt: world.now() });
  expect(counted.get('heartbeat taken')).toBe(2);
  expect(counted.get('heartbeat saved')).toBe(1);
});

test('a report is acknowledged, and only when it is committed', async () => {
  const order: string[] = [];
  const stop = makeIngest({
    ...depsOf({
      ...world.store,
      saveReports: async (rows) => {
        const result = await world.store.saveReports(rows);
        order.push('committed');
        return result;
      },
    }),
    link: { acknowledge: () => void order.push('acknowledged') },
  });
  stop.message(GW1, 'state', bytesOf(reportOf(1)));
  await stop.stop();
  expect(order).toEqual(['committed', 'acknowledged']);
  expect(await deviceOf(world, GW1)).toMatchObject({
    reportSeq: 1,
    agent: '1.0.0',
    attributes: { 'os.name': 'linux' },
  });
});

test('when the store fails nothing is acknowledged, and the repeated report is', async () => {
  let fails = true;
  const shaky = makeIngest(
    depsOf({
      ...world.store,
      saveReports: async (rows) => {
        if (fails) throw new Error('disk full');
        return world.store.saveReports(rows);
      },
    }),
  );
  shaky.message(GW1, 'state', bytesOf(reportOf(1)));
  await shaky.flush();
  expect([acks, complaints]).toEqual([[], ['ingest-failed']]);
  fails = false;
  shaky.message(GW1, 'state', bytesOf(reportOf(1)));
  await shaky.stop();
  expect(acks).toEqual(['gw-1 boot-1 1']);
});

test('a report that was seen is acknowledged again, with the highest number that was seen, and changes nothing', async () => {
  const deployment = await deploymentOf(GW1);
  await report(reportOf(2, { deployment: said(deployment, 'fetching') }));
  await report(reportOf(2, { deployment: said(deployment, 'trial') }));
  await report(reportOf(1, { deployment: said(deployment, 'trial') }));
  expect(acks).toEqual(['gw-1 boot-1 2', 'gw-1 boot-1 2 of 2', 'gw-1 boot-1 1 of 2']);
  expect(await deploymentOf(GW1)).toMatchObject({ state: 'fetching' });
  expect(counted.get('state seen')).toBe(2);
});

test('the deployment moves as the device says, and the rollout is woken', async () => {
  const deployment = await deploymentOf(GW1);
  await report(reportOf(1, { deployment: said(deployment, 'fetching') }));
  expect(await deploymentOf(GW1)).toMatchObject({ state: 'fetching', acceptedAt: world.now() });
  await report(reportOf(2, { deployment: said(deployment, 'trial') }));
  expect(await deploymentOf(GW1)).toMatchObject({ state: 'trial' });
  expect(woken).toEqual([rollout, rollout]);
});

test('committed counts only with its receipt, which the audit log then holds', async () => {
  const deployment = await deploymentOf(GW1);
  await report(reportOf(1, { deployment: said(deployment, 'committed') }));
  expect(await deploymentOf(GW1)).toMatchObject({ state: 'trial' });
  const receipt = await receiptOf();
  await report(reportOf(2, { deployment: said(deployment, 'committed'), receipts: [receipt] }));
  expect(await deploymentOf(GW1)).toMatchObject({ state: 'committed', decidedAt: world.now() });
  const lines = (await world.store.readAudit(-1, 1_000)).map(({ payload }) => JSON.parse(payload));
  expect(lines.filter(({ kind }) => kind === 'receipt')).toEqual([
    { kind: 'receipt', at: world.now(), by: 'device:gw-1', device: GW1, deployment: deployment.id, receipt },
  ]);
});

test('a receipt that is repeated stands in the log once', async () => {
  const receipts = [await receiptOf()];
  for (const seq of [1, 2, 3]) await report(reportOf(seq, { receipts }));
  expect((await kindsOf(world)).filter((kind) => kind === 'receipt')).toHaveLength(1);
  expect(acks).toHaveLength(3);
});

test('a receipt of what the server knew already is kept as its proof', async () => {
  const deployment = await deploymentOf(GW1);
  await report(reportOf(1, { deployment: said(deployment, 'reverted') }));
  expect(await deploymentOf(GW1)).toMatchObject({ state: 'reverted' });
  const receipts = [await receiptOf({ outcome: 'reverted', running: null })];
  await report(reportOf(2, { receipts }));
  await report(reportOf(3, { receipts }));
  expect((await kindsOf(world)).filter((kind) => kind === 'receipt')).toHaveLength(1);
});

test('several receipts count in the order in which the device made them', async () => {
  const reverted = await receiptOf({ outcome: 'reverted', running: null, seq: 2 });
  const committed = await receiptOf({ seq: 1 });
  await report(reportOf(1, { receipts: [reverted, committed] }));
  expect(await deploymentOf(GW1)).toMatchObject({ state: 'reverted' });
  expect((await kindsOf(world)).filter((kind) => kind === 'receipt')).toHaveLength(2);
});

const other = (hex: string): Sha256 => Sha256.parse(hex.repeat(64));
test.each<[string, () => Promise<Signed>]>([
  ['signed with another key', () => receiptOf({}, newSigner())],
  ['with a key id that is not its key', async () => ({ ...(await receiptOf()), keyId: other('0') })],
  [
    'changed after it was signed',
    async () => {
      const signed = await receiptOf({ outcome: 'reverted', running: null });
      return { ...signed, payload: signed.payload.replace('"reverted"', '"committed"') };
    },
  ],
  ['of another device', () => receiptOf({ device: Id.parse('gw-2') })],
  [
    'for the deployment of another device',
    async () => receiptOf({ deployment: (await deploymentOf(Id.parse('gw-2'))).id }),
  ],
  ['for no deployment that is known', () => receiptOf({ deployment: Id.parse('de-none') })],
  ['for another rollout', () => receiptOf({ rollout: Id.parse('ro-none') })],
  ['for another version', () => receiptOf({ version: '2.0.0' })],
  ['for another manifest', () => receiptOf({ manifest: other('a') })],
  ['that says committed while nothing runs', () => receiptOf({ running: null })],
  [
    'that says committed while another version runs',
    async () => receiptOf({ running: { product: GATEWAY, version: '0.9.0', manifest: await manifestOf(), slot: 'a' } }),
  ],
  ['that is no receipt', async () => signPayload(world.ci, { type: 'sluice/login/1' })],
  ['that is no JSON', async () => ({ ...(await receiptOf()), payload: '{{' })],
])('a receipt %s does not count, is told in the log, and the rest of the report is kept', async (_what, make) => {
  const deployment = await deploymentOf(GW1);
  await report(reportOf(1, { deployment: said(deployment, 'committed'), receipts: [await make()] }));
  expect(await deploymentOf(GW1)).toMatchObject({ state: 'trial' });
  const kinds = await kindsOf(world);
  expect([
    kinds.filter((kind) => kind === 'receipt'),
    kinds.filter((kind) => kind === 'receipt-refused').length,
  ]).toEqual([[], 1]);
  expect([counted.get('receipt refused'), acks]).toEqual([1, ['gw-1 boot-1 1']]);
});

test('eight bad receipts make one line of audit', async () => {
  const bad = await receiptOf({}, newSigner());
  await report(reportOf(1, { receipts: Array.from({ length: 8 }, (_, index) => ({ ...bad, sig: `0${index}` })) }));
  expect((await kindsOf(world)).filter((kind) => kind === 'receipt-refused')).toHaveLength(1);
  expect(counted.get('receipt refused')).toBe(8);
});

test('a device that signs ever new receipts for the same outcome fills nothing', async () => {
  for (let seq = 1; seq <= 20; seq++) await report(reportOf(seq, { receipts: [await receiptOf({ seq })] }));
  expect((await kindsOf(world)).filter((kind) => kind === 'receipt')).toHaveLength(8);
  expect((await kindsOf(world)).filter((kind) => kind === 'receipt-refused')).toHaveLength(3);
  expect(acks).toHaveLength(20);
});

test('the same receipt twice in one report counts once', async () => {
  const receipt = await receiptOf();
  await report(reportOf(1, { receipts: [receipt, receipt, { ...receipt, sig: '00' }] }));
  expect((await kindsOf(world)).filter((kind) => kind === 'receipt')).toHaveLength(1);
  expect(await deploymentOf(GW1)).toMatchObject({ state: 'committed' });
});

test('a device cannot move the deployment of another', async () => {
  const others = await deploymentOf(Id.parse('gw-2'));
  await report(reportOf(1, { deployment: said(others, 'failed') }));
  expect(await deploymentOf(Id.parse('gw-2'))).toMatchObject({ state: 'offered' });
  expect(acks).toEqual(['gw-1 boot-1 1']);
});

test('a deployment that someone else moves in between is loaded again and stepped from there', async () => {
  const deployment = await deploymentOf(GW1);
  const stamp = { kind: 'overdue', rollout, by: 'server' } as const;
  let raced = false;
  let moved = 0;
  const racing = makeIngest(
    depsOf({
      ...world.store,
      saveReports: async (rows) => {
        if (!raced) {
          raced = true;
          // As if the deadline had passed meanwhile.
          world.pass(90_000_000);
          const overdue = await world.store.markOverdue(rollout, world.now(), 10, stamp);
          moved = overdue.length;
        }
        return world.store.saveReports(rows);
      },
    }),
  );
  racing.message(GW1, 'state', bytesOf(reportOf(1, { deployment: said(deployment, 'fetching') })));
  racing.message(Id.parse('gw-2'), 'state', bytesOf(reportOf(1)));
  await racing.stop();
  expect(moved).toBe(3);
  expect(await deploymentOf(GW1)).toMatchObject({ state: 'fetching', overdue: null });
  expect(acks.sort()).toEqual(['gw-1 boot-1 1', 'gw-2 boot-1 1']);
});

test('a conflict that never ends is given up, unacknowledged', async () => {
  const deployment = await deploymentOf(GW1);
  let attempts = 0;
  const stuck = makeIngest(
    depsOf({
      ...world.store,
      saveReports: async (rows) => {
        attempts += 1;
        return { conflicts: rows.flatMap((row) => row.deployments.map(({ id }) => id)) };
      },
    }),
  );
  stuck.message(GW1, 'state', bytesOf(reportOf(1, { deployment: said(deployment, 'fetching') })));
  await stuck.stop();
  expect([attempts, acks, counted.get('state lost')]).toEqual([5, [], 1]);
});

test.each<[string, Buffer]>([
  ['no JSON', Buffer.from('{')],
  ['no UTF-8', Buffer.from([0x22, 0xff, 0x22])],
  ['too long', Buffer.alloc(65 * 1024, 0x20)],
  ['of another version', bytesOf({ v: 2 })],
  ['nested without end', Buffer.from('['.repeat(60_000))],
  ['nothing', Buffer.alloc(0)],
])('a message that is %s is counted, and harms no one', async (_what, payload) => {
  for (const channel of ['state', 'heartbeat', 'online', 'log'] as const) ingest.message(GW1, channel, payload);
  await report(reportOf(1));
  expect([counted.get('state malformed'), counted.get('heartbeat malformed')]).toEqual([1, 1]);
  expect([counted.get('online malformed'), counted.get('log malformed')]).toEqual([1, 1]);
  expect(acks).toEqual(['gw-1 boot-1 1']);
  // A flood of nonsense must not become a flood of log lines.
  for (let count = 0; count < 100; count++) ingest.message(GW1, 'heartbeat', payload);
  expect(complaints).toHaveLength(3);
});

test('a device that reports faster than can be stored is asked to repeat itself, not buffered without end', async () => {
  for (let seq = 1; seq <= 50; seq++) ingest.message(GW1, 'state', bytesOf(reportOf(seq)));
  await ingest.flush();
  expect(counted.get('state dropped')).toBe(46);
  expect(acks).toEqual([1, 2, 3, 4].map((seq) => `gw-1 boot-1 ${seq}`));
});

test('thousands of heartbeats and reports come through in batches', async () => {
  const fleet = Array.from({ length: 1_200 }, (_, index) => Id.parse(`unknown-${index}`));
  for (const device of fleet) ingest.message(device, 'heartbeat', heartbeat());
  for (const device of fleet) ingest.message(device, 'state', bytesOf(reportOf(1)));
  ingest.message(GW1, 'state', bytesOf(reportOf(1)));
  await ingest.flush();
  expect(acks).toEqual(['gw-1 boot-1 1']);
  expect(complaints).toEqual([]);
});

test('the life that a device speaks in is heard, but not in what is left over from an older connection', async () => {
  const heard: string[] = [];
  const listening = makeIngest({
    ...depsOf(world.store),
    heard: (device, boot) => void heard.push(`${device} ${boot}`),
  });
  listening.message(GW1, 'online', bytesOf({ boot: 'boot-2', online: true }));
  listening.message(GW1, 'state', bytesOf(reportOf(1)), false);
  listening.message(GW1, 'online', bytesOf({ boot: 'boot-1', online: false }));
  listening.message(GW1, 'heartbeat', Buffer.from('no heartbeat'));
  expect(heard).toEqual(['gw-1 boot-2']);
  listening.message(GW1, 'state', bytesOf(reportOf(2)));
  listening.message(GW1, 'heartbeat', heartbeat());
  expect(heard.slice(1)).toEqual(['gw-1 boot-1', 'gw-1 boot-1']);
  await listening.stop();
});

test('presence follows connections; what a device says about itself only adds its boot', async () => {
  ingest.presence(GW1, false);
  await ingest.flush();
  expect(await deviceOf(world, GW1)).toMatchObject({ online: false });
  ingest.presence(GW1, true);
  ingest.message(GW1, 'online', bytesOf({ boot: 'boot-7', online: true }));
  // The will of a connection that was taken over.
  ingest.message(GW1, 'online', bytesOf({ boot: 'boot-6', online: false }));
  await ingest.flush();
  expect(await deviceOf(world, GW1)).toMatchObject({ online: true, boot: 'boot-7' });
});

test('a device that was rejected meanwhile is not listened to', async () => {
  const deployment = await deploymentOf(GW1);
  await world.store.setDeviceState(GW1, 'rejected', world.now(), { payload: '{"kind":"device-rejected"}' });
  await report(reportOf(1, { deployment: said(deployment, 'fetching') }));
  expect([acks, counted.get('state lost')]).toEqual([[], 1]);
});

test('after the stop nothing is taken, and what was taken is written', async () => {
  ingest.message(GW1, 'state', bytesOf(reportOf(1)));
  await ingest.stop();
  ingest.message(GW1, 'state', bytesOf(reportOf(2)));
  await ingest.flush();
  expect(acks).toEqual(['gw-1 boot-1 1']);
});
