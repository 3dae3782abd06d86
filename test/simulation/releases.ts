/**
 * What there is to roll out: channels, releases that behave well or badly, cohorts, and the people who may say
 * something.
 */
import { auditLine } from '#server/domain/audit.ts';
import { type Channel, Channels } from '#server/domain/release/channel.ts';
import type { BundleRecord } from '#server/store/catalogue.ts';
import type { StoreMethods } from '#server/store/methods/methods.ts';
import { Id, manifestPath } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import { canonicalJson, sha256Hex } from '#shared/trust/canonical.ts';
import type { Behaviour, Release, World } from './world.ts';

export const PRODUCT = Id.parse('gateway');
const STAGING = Id.parse('staging');
export const PRODUCTION = Id.parse('production');
export const CHECK = Id.parse('e2e');
export const COMPATIBLES = [Id.parse('gw2'), Id.parse('gw3')];
/** Lists, frozen when they are made. */
export const COHORTS = [Id.parse('canary'), Id.parse('fleet')];
/** Selectors: devices come to match them. */
export const SELECTED = { everyone: Id.parse('everyone'), early: Id.parse('early') };
export const EARLY_TAG = { ring: 'early' };
export const FACTORY = '1.0.0';
export const AUTHOR = 'ada';
export const APPROVERS = ['bob', 'eve'];

export const channelsOf = (world: World): Channel[] => {
  const random = world.random('channels');
  const rolloutApprovals = world.uses('approvals') ? random.between(1, 2) : 0;
  if (!world.uses('channels')) return Channels.parse([{ name: PRODUCTION, rolloutApprovals }]);
  const completedRollout = random.chance(0.5);
  const requires = {
    completedRollout,
    soakMs: completedRollout ? random.between(0, 5) * 60_000 : 0,
    checks: random.chance(0.5) ? [CHECK] : [],
    sbom: true,
    approvals: random.between(0, 1),
  };
  return Channels.parse([STAGING, { name: PRODUCTION, rolloutApprovals, requires }]);
};

const behaviourOf = (world: World): Behaviour => {
  const random = world.random('releases');
  const [dice, share, afterMs] = [random.next(), random.next(), random.between(30, 600) * 1_000];
  if (!world.has('bad-release') || dice < 0.5) return { kind: 'good' };
  if (dice < 0.6) return { kind: 'crashes' };
  if (dice < 0.7) return { kind: 'unhealthy' };
  return dice < 0.85 ? { kind: 'flaky', share: share * 0.5 } : { kind: 'fades', share, afterMs };
};

const bundleOf = (world: World, version: string, compatible: Id): BundleRecord => {
  const content = Buffer.from(`${version} ${compatible} `.repeat(40));
  const sha256 = sha256Hex(content);
  const manifest = Manifest.parse({
    format: 1,
    product: PRODUCT,
    version,
    compatible,
    securityCounter: 0,
    artifacts: [{ name: 'app', bytes: content.length, sha256, install: { kind: 'file', path: 'app' } }],
    run: { command: ['app'] },
    health: { soakMs: 5_000, deadlineMs: 240_000 },
    attachments: [{ kind: 'sbom', name: 'sbom.json', bytes: 3, sha256 }],
  });
  const bytes = Buffer.from(canonicalJson(manifest));
  const manifestSha256 = sha256Hex(bytes);
  world.objects.set(sha256, content).set(manifestSha256, bytes);
  return {
    product: PRODUCT,
    version,
    compatible,
    path: manifestPath(PRODUCT, version, compatible),
    manifestSha256,
    manifestBytes: bytes.length,
    manifest,
    metadataVersion: 0,
    acceptedAt: world.time.now(),
    acceptedBy: 'ci',
  };
};

/** Puts people, releases and cohorts into the store, before anything runs. */
export const furnish = async (
  world: World,
  methods: StoreMethods,
  devices: Id[],
  channels: Channel[],
): Promise<void> => {
  const at = world.time.now();
  const by = AUTHOR;
  for (const name of [AUTHOR, ...APPROVERS])
    await methods.createOperator(
      { name, role: 'operator', tokenSha256: sha256Hex(name), createdAt: at, revokedAt: null },
      auditLine({ at, by, kind: 'operator-created', name, role: 'operator' }),
    );
  await methods.createProduct(
    { name: PRODUCT, keys: [], createdAt: at },
    auditLine({ at, by, kind: 'product-created', product: PRODUCT, keys: [] }),
  );
  const channel = channels[0]!.name;
  for (let number = 0; number <= world.options.rollouts; number += 1) {
    const version = `1.${number}.0`;
    const metadataVersion = number + 1;
    const bundles = COMPATIBLES.map((compatible) => ({ ...bundleOf(world, version, compatible), metadataVersion }));
    await methods.acceptBundles(bundles, { product: PRODUCT, version: metadataVersion, document: '{}' }, []);
    const line = auditLine({ at, by, kind: 'release-staged', product: PRODUCT, version, channel });
    await methods.saveRelease(PRODUCT, version, { state: 'accepted' }, { state: 'staged', channels: [channel] }, line);
    const release: Release = {
      version,
      behaviour: number === 0 ? { kind: 'good' } : behaviourOf(world),
      manifests: new Map(bundles.map(({ compatible, manifestSha256 }) => [compatible, manifestSha256])),
    };
    world.releases.set(version, release);
  }
  const canaries = Math.max(1, Math.floor(devices.length / 4));
  const cohorts = [
    { name: COHORTS[0]!, members: { kind: 'list' as const, devices: devices.slice(0, canaries) } },
    { name: COHORTS[1]!, members: { kind: 'list' as const, devices } },
    { name: SELECTED.everyone, members: { kind: 'selector' as const, selector: 'id=gw-*' } },
    { name: SELECTED.early, members: { kind: 'selector' as const, selector: 'ring=early' } },
  ];
  for (const cohort of cohorts)
    await methods.createCohort(
      { ...cohort, createdAt: at },
      auditLine({ at, by, kind: 'cohort-created', cohort: cohort.name }),
    );
};
