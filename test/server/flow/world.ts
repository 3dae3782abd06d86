/**
 * A whole server without sockets: the real store, objects, trust and flows, in a folder that goes away, at a time that
 * tests set.
 */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach } from 'vitest';
import { auditLine, byDevice } from '#server/domain/audit.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { stepDeployment } from '#server/domain/deployment/deployment-step.ts';
import { type Channel, Channels } from '#server/domain/release/channel.ts';
import type { DeviceLink } from '#server/flow/device/device-link.ts';
import { newId } from '#server/flow/new-id.ts';
import { openUploads, type UploadLimits, type Uploads } from '#server/flow/release/accept-upload.ts';
import { createProduct } from '#server/flow/release/create-product.ts';
import { publishRelease } from '#server/flow/release/publish-release.ts';
import { stageRelease } from '#server/flow/release/stage-release.ts';
import { performEffects } from '#server/flow/rollout/perform-effects.ts';
import { planRollout } from '#server/flow/rollout/plan-rollout.ts';
import { runRollout } from '#server/flow/rollout/run-rollout.ts';
import { waitUntilOf } from '#server/flow/time/rollout-time.ts';
import type { DeviceRecord } from '#server/store/devices.ts';
import { type Objects, openObjects } from '#server/store/objects.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import { openInProcessStore } from '#server/store/sqlite/open.ts';
import type { Store } from '#server/store/store.ts';
import type { Keyring } from '#server/trust/keyring.ts';
import type { Repository } from '#server/trust/repository.ts';
import { createBundle } from '#shared/create-bundle.ts';
import type { AgentState, DeviceError, Outcome, Running } from '#shared/deployment.ts';
import { Id, manifestPath, type Sha256 } from '#shared/ids.ts';
import { type Desired, DesiredLeaf, type Instruction } from '#shared/messages.ts';
import { Policy } from '#shared/policy.ts';
import type { Result } from '#shared/problems.ts';
import { addManifests } from '#shared/trust/delegation.ts';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';
import { line } from '#test/server/store/records.ts';
import { firstStart } from '#test/server/trust/made-once.ts';

export const T0 = Date.UTC(2026, 10, 21);
export const DAY = 86_400_000;
export const GATEWAY = Id.parse('gateway');
export const PRODUCTION = Id.parse('production');

export const must = <T>(result: Result<T>): T => {
  if (!result.ok) throw new Error(`${result.code}: ${result.detail}`);
  return result.value;
};
export const newSigner = (): Signer => must(signerFromPem(generatePrivateKey('ed25519')));

export type BundleFile = { bytes: Buffer; sha256: Sha256; manifestBytes: Buffer; path: string };

export type World = {
  dir: string;
  store: Store;
  objects: Objects;
  keyring: Keyring;
  repository: Repository;
  uploads: Uploads;
  director: Signer;
  log: Signer;
  ci: Signer;
  link: DeviceLink & { pushed: Map<Id, Desired[]>; disconnected: Id[] };
  channels: Channel[];
  rollouts: { wake(): void };
  packs: { wake(): void };
  newId: () => Id;
  now: () => number;
  /** Moves the clock. */
  pass(ms: number): void;
  close(): Promise<void>;
};

export const openWorld = async (limits?: UploadLimits): Promise<World> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-flow-'));
  let time = T0;
  const now = () => time;
  const store = openInProcessStore(':memory:');
  const objects = await openObjects(join(dir, 'objects'));
  const { keyring, repository } = await firstStart(dir, now);
  const pushed = new Map<Id, Desired[]>();
  const disconnected: Id[] = [];
  return {
    dir,
    store,
    objects,
    keyring,
    repository,
    uploads: openUploads({ objects, now, ...(limits === undefined ? {} : { limits }) }),
    director: keyring.director,
    log: keyring.log,
    ci: newSigner(),
    link: {
      pushed,
      disconnected,
      pushDesired: (device, desired) => void pushed.set(device, [...(pushed.get(device) ?? []), desired]),
      acknowledge: () => {},
      disconnect: (device) => void disconnected.push(device),
    },
    channels: Channels.parse(['staging', 'production']),
    rollouts: { wake: () => {} },
    packs: { wake: () => {} },
    newId: () => newId('ro-'),
    now,
    pass: (ms) => {
      time += ms;
    },
    close: async () => {
      await store.close();
      await rm(dir, { recursive: true, force: true });
    },
  };
};

/** A world for each test of a file, closed after it. */
export const worldOfEachTest = (limits?: UploadLimits): World => {
  const world = {} as World;
  beforeEach(async () => void Object.assign(world, await openWorld(limits)));
  afterEach(() => world.close());
  return world;
};

/** A real bundle of one small file. */
export const makeBundle = async (
  world: World,
  version: string,
  more: {
    compatible?: string;
    securityCounter?: number;
    content?: string;
    product?: string;
    changes?: string[];
  } = {},
): Promise<BundleFile> => {
  const work = await mkdtemp(join(world.dir, 'bundle-'));
  const app = join(work, 'app');
  const out = join(work, 'out.bundle');
  await writeFile(app, more.content ?? `the application, version ${version}`);
  const compatible = more.compatible ?? 'gw2';
  const product = more.product ?? 'gateway';
  const made = must(
    await createBundle({
      manifest: {
        product: Id.parse(product),
        version,
        compatible: Id.parse(compatible),
        securityCounter: more.securityCounter ?? 0,
        changes: more.changes ?? [],
      },
      artifacts: [{ name: 'app', file: app, install: { kind: 'file', path: 'app' } }],
      out,
    }),
  );
  const bytes = await readFile(out);
  await rm(work, { recursive: true });
  return {
    bytes,
    sha256: made.sha256,
    manifestBytes: made.manifestBytes,
    path: manifestPath(product, version, compatible),
  };
};

/** The bytes as a body that arrives in pieces. */
export async function* bodyOf(bytes: Uint8Array, pieceBytes = 700): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
}

export const upload = (world: World, bundle: BundleFile) =>
  world.uploads.accept({ sha256: bundle.sha256, body: bodyOf(bundle.bytes), by: 'ci' });

/** The next version of the CI metadata, with these bundles added. */
export const signBundles = async (world: World, bundles: BundleFile[], signer = world.ci): Promise<string> =>
  addManifests({
    document: (await world.store.getDelegationMetadata(GATEWAY))?.document ?? null,
    product: GATEWAY,
    manifests: bundles.map(({ path, manifestBytes }) => ({ path, bytes: manifestBytes })),
    signer,
    expires: world.now() + 365 * DAY,
  });

export const makeProduct = (world: World) =>
  createProduct(world, { name: GATEWAY, keys: [publicKeyPem(world.ci.key)], by: 'ada' });

/** Uploads and publishes; the release is accepted, not staged. */
export const publish = async (world: World, bundles: BundleFile[]) => {
  for (const bundle of bundles) must(await upload(world, bundle));
  const metadata = await signBundles(world, bundles);
  return publishRelease(world, { uploads: bundles.map(({ sha256 }) => sha256), metadata, by: 'ci' });
};

/** A staged release of `gateway` for gw2. */
export const releaseOf = async (world: World, version: string, securityCounter = 0): Promise<void> => {
  if ((await world.store.getProduct(GATEWAY)) === undefined) must(await makeProduct(world));
  must(await publish(world, [await makeBundle(world, version, { securityCounter })]));
  must(await stageRelease(world, { product: GATEWAY, version, channel: PRODUCTION, by: 'ada' }));
};

/** Devices `gw-1` to `gw-<count>`, let in, connected, in the cohort `fleet`. */
export const enrolFleet = async (world: World, count: number, compatible = 'gw2'): Promise<Id[]> => {
  const devices = Array.from({ length: count }, (_, index) => Id.parse(`gw-${index + 1}`));
  for (const device of devices) {
    await world.store.enrolDevice(
      {
        id: device,
        publicKey: world.ci.key.keyval.public,
        compatible: Id.parse(compatible),
        attributes: {},
        enrolledAt: world.now(),
      },
      null,
      world.now(),
      auditLine({
        at: world.now(),
        by: byDevice(device),
        kind: 'device-enrolled',
        device,
        publicKey: world.ci.key.keyval.public,
        compatible: Id.parse(compatible),
        state: 'pending',
      }),
    );
    const letIn = auditLine({ at: world.now(), by: 'ada', kind: 'device-accepted', device });
    await world.store.setDeviceState(device, 'accepted', world.now(), letIn);
  }
  await world.store.setOnline(devices.map((device) => ({ device, online: true, boot: null, at: world.now() })));
  await world.store.createCohort(
    { name: Id.parse('fleet'), members: { kind: 'list', devices }, createdAt: world.now() },
    line('cohort-created'),
  );
  return devices;
};

type PolicyInput = Parameters<typeof Policy.parse>[0];
/** Plans a rollout of `gateway@version` to `fleet`, and runs what is due. */
export const startRollout = async (
  world: World,
  version: string,
  options: { waves?: { count: number }[]; policy?: PolicyInput; startAt?: number } = {},
): Promise<Id> => {
  const planned = must(
    await planRollout(world, {
      product: GATEWAY,
      version,
      channel: PRODUCTION,
      cohorts: [{ cohort: Id.parse('fleet'), waves: options.waves ?? [{ percent: 100 }] }],
      policy: Policy.parse(options.policy ?? {}),
      startAt: options.startAt,
      by: 'ada',
    }),
  );
  await run(world, planned.plan.id);
  return planned.plan.id;
};

export const run = async (world: World, rollout: Id): Promise<RolloutRecord> => {
  const result = must(await runRollout(world, rollout));
  await performEffects(world);
  return result;
};

export const deploymentsOf = (world: World, rollout: Id): Promise<DeploymentRecord[]> =>
  world.store.listDeployments({ rollout }, { limit: 1000 });

let seq = 0;
/** What an agent would report, committed the way ingest does it. */
export const report = async (
  world: World,
  deployment: DeploymentRecord,
  word: { state: AgentState; error?: DeviceError } | { outcome: Outcome; error?: DeviceError },
  more: { running?: Running; floor?: number } = {},
): Promise<void> => {
  const [newest] = await world.store.getDeployments([deployment.id]);
  const rollout = await world.store.getRollout(deployment.rollout);
  if (newest === undefined || rollout === undefined) throw new Error('no such deployment');
  const held = waitUntilOf(rollout.plan, newest.cohort, {}, world.now());
  const step = stepDeployment(newest, { ...word, attempt: newest.offers }, world.now(), rollout.plan.policy, held);
  seq += 1;
  await world.store.saveReports([
    {
      device: deployment.device,
      publicKey: (await deviceOf(world, deployment.device)).publicKey,
      boot: Id.parse('boot-1'),
      seq,
      at: world.now(),
      agent: '1.0.0',
      running: null,
      floor: 0,
      attributes: {},
      deployments: [step.next],
      audit: [],
      ...more,
    },
  ]);
};

/** What the device was told last. */
export const lastTold = (world: World, device: Id): Instruction | undefined => {
  const desired = world.link.pushed.get(device)?.at(-1);
  return desired && DesiredLeaf.parse(JSON.parse(desired.leaf)).instruction;
};

export const deviceOf = async (world: World, device: string): Promise<DeviceRecord> => {
  const found = await world.store.getDevice(Id.parse(device));
  if (found === undefined) throw new Error(`no device ${device}`);
  return found;
};

export const kindsOf = async (world: World): Promise<string[]> =>
  (await world.store.readAudit(-1, 10_000)).map((entry) => String(JSON.parse(entry.payload).kind));

/** Every file under the objects folder. */
export const filesOf = async (world: World): Promise<string[]> =>
  (await readdir(join(world.dir, 'objects'), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => entry.name);
