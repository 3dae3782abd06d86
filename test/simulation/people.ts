/** Those who plan rollouts and steer them, at random, through the server's real flows; and the releases that they roll out. */

import { auditLine } from '#server/domain/audit.ts';
import { Channels } from '#server/domain/channel.ts';
import { acceptDevice, rejectDevice } from '#server/flow/admit-device.ts';
import { planRollout } from '#server/flow/plan-rollout.ts';
import { steerRollout } from '#server/flow/steer-rollout.ts';
import { withdrawRelease } from '#server/flow/withdraw-release.ts';
import type { SyncStore } from '#server/store/sqlite/sync.ts';
import type { BundleRecord } from '#server/store/store.ts';
import { Id, manifestPath } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import { Policy } from '#shared/policy.ts';
import { canonicalJson, sha256Hex } from '#shared/trust/canonical.ts';
import type { Device } from './agent.ts';
import type { Running, Server } from './server.ts';
import type { Behaviour, Release, World } from './world.ts';

const PRODUCT = Id.parse('gateway');
const CHANNEL = Id.parse('production');
const CHANNELS = Channels.parse([CHANNEL]);
export const COMPATIBLES = [Id.parse('gw2'), Id.parse('gw3')];
const COHORTS = [Id.parse('canary'), Id.parse('fleet')];
export const FACTORY = '1.0.0';

const behaviourOf = (world: World): Behaviour => {
  const random = world.random('releases');
  const dice = random.next();
  const share = random.next() * 0.5;
  if (!world.has('bad-release') || dice < 0.5) return { kind: 'good' };
  if (dice < 0.65) return { kind: 'crashes' };
  return dice < 0.8 ? { kind: 'unhealthy' } : { kind: 'flaky', share };
};

const bundleOf = (version: string, compatible: Id, at: number): BundleRecord => {
  const content = sha256Hex(`${version} ${compatible}`);
  const manifest = Manifest.parse({
    format: 1,
    product: PRODUCT,
    version,
    compatible,
    securityCounter: 0,
    artifacts: [{ name: 'app', bytes: 10, sha256: content, install: { kind: 'file', path: 'app' } }],
    attachments: [{ kind: 'sbom', name: 'sbom.json', bytes: 3, sha256: content }],
  });
  const text = canonicalJson(manifest);
  return {
    product: PRODUCT,
    version,
    compatible,
    path: manifestPath(PRODUCT, version, compatible),
    manifestSha256: sha256Hex(text),
    manifestBytes: text.length,
    manifest,
    metadataVersion: 0,
    acceptedAt: at,
    acceptedBy: 'ci',
  };
};

/** Puts releases and cohorts into the store, before anything runs. */
export const furnish = (world: World, sync: SyncStore, devices: Id[]): void => {
  const at = world.time.now();
  const by = 'ada';
  sync.createProduct(
    { name: PRODUCT, keys: [], createdAt: at },
    auditLine({ at, by, kind: 'product-created', product: PRODUCT, keys: [] }),
  );
  for (let number = 0; number <= world.options.rollouts; number += 1) {
    const version = `1.${number}.0`;
    const bundles = COMPATIBLES.map((compatible) => ({
      ...bundleOf(version, compatible, at),
      metadataVersion: number + 1,
    }));
    sync.acceptBundles(bundles, { product: PRODUCT, version: number + 1, document: '{}' }, []);
    const line = auditLine({ at, by, kind: 'release-staged', product: PRODUCT, version, channel: CHANNEL });
    sync.saveRelease(PRODUCT, version, { state: 'accepted' }, { state: 'staged', channels: [CHANNEL] }, line);
    const release: Release = {
      version,
      behaviour: number === 0 ? { kind: 'good' } : behaviourOf(world),
      manifests: new Map(bundles.map(({ compatible, manifestSha256 }) => [compatible, manifestSha256])),
    };
    world.releases.set(version, release);
  }
  const canaries = Math.max(1, Math.floor(devices.length / 4));
  COHORTS.forEach((name, index) => {
    const members = { kind: 'list' as const, devices: index === 0 ? devices.slice(0, canaries) : devices };
    sync.createCohort({ name, members, createdAt: at }, auditLine({ at, by, kind: 'cohort-created', cohort: name }));
  });
};

const policyOf = (world: World): Policy => {
  const random = world.random('policies');
  const outcomeMs = random.between(4, 15) * 60_000;
  return Policy.parse({
    judge: random.chance(0.8)
      ? { rule: 'evidence', limit: 0.05 + random.next() * 0.1, budget: random.between(2, 6) }
      : { rule: 'wave-percentage', percent: random.between(5, 40) },
    gate: { successShare: random.pick([0.5, 0.8, 0.9]), soakMs: random.between(5, 60) * 1_000 },
    deadlines: { acceptMs: random.between(3, 20) * 60_000, outcomeMs },
    limits: {
      startsPerMinute: random.pick([6, 60, 1_000]),
      atRiskMax: random.pick([3, 6, 1_000]),
    },
  });
};

export type People = {
  /** Begins the next rollout. */
  plan: () => void;
  /** One of the things that people do at the worst moment. */
  meddle: () => void;
  /** When nothing goes wrong any more: what waits for a person is decided. */
  settle: () => void;
};

export const openPeople = (world: World, server: Server, sync: SyncStore, devices: Device[]): People => {
  const random = world.random('operator');
  let planned = 0;
  /** In the server's name; whatever the server was doing when it died is lost. */
  const ask = (what: string, act: (running: Running) => Promise<unknown>): void => {
    const running = server.running();
    if (running === undefined) return;
    world.tell(`ada: ${what}`);
    world.time.within(running.process, () => {
      act(running).catch((error: unknown) => {
        if (!running.process.dead) world.violate(`ada: ${what}: ${String(error)}`);
      });
    });
  };
  const steer = (rollout: Id, verb: 'pause' | 'resume' | 'abort'): void =>
    ask(`${verb} ${rollout}`, (running) => steerRollout(running, { rollout, verb, note: 'because', by: 'ada' }));
  const open = () =>
    sync
      .listRollouts({ limit: 1_000 })
      .filter(({ progress }) => progress.state !== 'completed' && progress.state !== 'aborted');

  const plan = (): void => {
    if (planned >= world.options.rollouts || server.running() === undefined) return;
    planned += 1;
    const version = `1.${planned}.0`;
    const policy = policyOf(world);
    const waves = random.pick([
      [{ percent: 100 }],
      [{ count: 2 }, { percent: 100 }],
      [{ percent: 10 }, { percent: 50 }, { percent: 100 }],
    ]);
    const cohorts = random.chance(0.3)
      ? [
          { cohort: COHORTS[0]!, waves: [{ percent: 100 }] },
          { cohort: COHORTS[1]!, waves },
        ]
      : [{ cohort: COHORTS[1]!, waves }];
    const id = Id.parse(`ro-${planned}`);
    ask(`plan ${id} of ${version} (${world.releases.get(version)?.behaviour.kind})`, async (running) => {
      const input = { product: PRODUCT, version, channel: CHANNEL, cohorts, policy, by: 'ada' };
      const result = await planRollout({ ...running, channels: CHANNELS, newId: () => id }, input);
      running.rollouts.wake();
      return result;
    });
  };
  const meddle = (): void => {
    const dice = random.next();
    const some = open();
    const one = some.length === 0 ? undefined : random.pick(some);
    const device = random.pick(devices);
    if (one !== undefined && dice < 0.35) return steer(one.plan.id, 'pause');
    if (one !== undefined && dice < 0.75) return steer(one.plan.id, 'resume');
    if (one !== undefined && dice < 0.8) return steer(one.plan.id, 'abort');
    if (one !== undefined && dice < 0.83) {
      const { product, version } = one.plan;
      return ask(`withdraw ${version}`, (running) =>
        withdrawRelease(running, { product, version, reason: 'because', by: 'ada' }),
      );
    }
    if (dice < 0.9)
      return ask(`reject ${device.id}`, (running) => rejectDevice(running, { device: device.id, by: 'ada' }));
    return ask(`accept ${device.id}`, (running) => acceptDevice(running, { device: device.id, by: 'ada' }));
  };
  const settle = (): void => {
    for (const {
      plan: { id },
      progress,
    } of open()) {
      if (progress.state === 'paused') steer(id, 'resume');
      if (progress.state === 'halted') steer(id, 'abort');
    }
    for (const device of sync.listDevices({ state: 'rejected' }, { limit: 1_000 }))
      ask(`accept ${device.id}`, (running) => acceptDevice(running, { device: device.id, by: 'ada' }));
  };
  return { plan, meddle, settle };
};
