/** A device in front of a throw-away server, and an attacker between them, who may even hold keys. */
import { join } from 'node:path';
import { z } from 'zod';
import { type DeviceTrust, type InstallInstruction, openDeviceTrust } from '#agent/trust/device-trust.ts';
import { signDesired } from '#server/trust/director.ts';
import { Id } from '#shared/ids.ts';
import { type Desired, DesiredLeaf, type Instruction } from '#shared/messages.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { parseTuf, signTuf, TUF_SPEC_VERSION, type TufKind, type TufSigned, tufTime } from '#shared/trust/tuf.ts';
import {
  COMPATIBLE,
  DAY_MS,
  manifestOf,
  newFolder,
  PRODUCT,
  type ThrowAway,
  throwAway,
} from '#test/server/trust/throw-away.ts';

const DEVICE = Id.parse('gw-01');
export const BUILD_TIME = Date.UTC(2026, 0);
export const METADATA = '/tuf/metadata/';

export type Scene = {
  server: ThrowAway;
  /** Answers of the attacker by path: bytes, undefined for 404, or an error. Everything else comes from the server. */
  forged: Map<string, string | Buffer | Error | undefined>;
  /** Paths asked for since it was last emptied. */
  asked: string[];
  /** The device's clock. */
  clock: { now: number };
  dir: string;
  trust: DeviceTrust;
  /** The same device after a restart. */
  restart(buildTime?: number): Promise<DeviceTrust>;
};

export const openScene = async (ci?: Signer): Promise<Scene> => {
  const server = await throwAway(ci);
  const forged: Scene['forged'] = new Map();
  const asked: string[] = [];
  const clock = { now: server.clock.now };
  const dir = join(await newFolder(), 'trust');
  const get = async (path: string): Promise<Buffer | undefined> => {
    asked.push(path);
    if (forged.has(path)) {
      const answer = forged.get(path);
      if (answer instanceof Error) throw answer;
      return answer === undefined ? undefined : Buffer.from(answer);
    }
    const [, , kind, ...name] = path.split('/').map(decodeURIComponent);
    return server.repository.read(kind === 'metadata' ? 'metadata' : 'targets', name.join('/'));
  };
  const restart = (buildTime = BUILD_TIME) =>
    openDeviceTrust({ dir, device: DEVICE, fetch: { get }, now: () => clock.now, buildTime });
  return { server, forged, asked, clock, dir, trust: await restart(), restart };
};

/** A device that has pinned the root, in front of a server that has published 1.0.0. */
export const readyScene = async (): Promise<Scene> => {
  const scene = await openScene();
  await scene.server.publish('1.0.0');
  const pinned = await scene.trust.pinRoot(scene.server.repository.rootSha256);
  if (!pinned.ok) throw new Error(pinned.message);
  return scene;
};

export const install = (version = '1.0.0', changes: Partial<InstallInstruction> = {}): InstallInstruction => {
  const bytes = manifestOf(version);
  return {
    kind: 'install',
    deployment: Id.parse('d1'),
    rollout: Id.parse('r1'),
    product: PRODUCT,
    version,
    compatible: COMPATIBLE,
    securityCounter: 3,
    path: `fw/${PRODUCT}/${version}/${COMPATIBLE}.json`,
    sha256: sha256Hex(bytes),
    length: bytes.length,
    ...changes,
  };
};

/** The director's document for the device, among two others of its batch. */
export const desire = (
  scene: Scene,
  options: {
    seq?: number;
    device?: Id;
    instruction?: Instruction;
    expires?: number;
    signer?: Signer;
    issuedAt?: number;
  } = {},
): Desired => {
  const issuedAt = options.issuedAt ?? scene.server.clock.now;
  const times = { issuedAt, expires: options.expires ?? issuedAt + 7 * DAY_MS };
  const leaves = [Id.parse('gw-00'), options.device ?? DEVICE, Id.parse('gw-02')].map((device) =>
    DesiredLeaf.parse({
      type: 'sluice/desired/1',
      device,
      seq: options.seq ?? 1,
      ...times,
      instruction: options.instruction ?? install(),
    }),
  );
  return signDesired(options.signer ?? scene.server.keyring.director, leaves, times)[1]!;
};

/** The signed part of any metadata, to be changed at will: only the members of its kind are there. */
type Forged = TufSigned &
  Record<'keys' | 'roles' | 'targets', Record<string, unknown>> & { meta: Record<string, { version: number }> };
type Change = (signed: Forged) => void;
const current = async (scene: Scene, kind: TufKind, name: string): Promise<Forged> => {
  const bytes = await scene.server.repository.read('metadata', name);
  const parsed = bytes === undefined ? undefined : parseTuf(kind, bytes);
  if (bytes === undefined || parsed?.ok !== true) throw new Error(`no good ${name}`);
  return JSON.parse(bytes.toString()).signed;
};
const metaOf = (version: number, text: string) => ({
  version,
  length: Buffer.byteLength(text),
  hashes: { sha256: sha256Hex(text) },
});

/**
 * What an attacker serves who holds online keys: `change` is applied to what is signed before signing, `signer` signs
 * in the place of the right key, and all that names the document is made to match and signed with the right keys.
 */
export const forgeTimestamp = async (scene: Scene, change: Change, signer?: Signer): Promise<void> => {
  const signed = await current(scene, 'timestamp', 'timestamp.json');
  signed.version += 1;
  change(signed);
  scene.forged.set(`${METADATA}timestamp.json`, signTuf(signed, [signer ?? scene.server.keyring.timestamp]));
};

export const forgeSnapshot = async (
  scene: Scene,
  change: Change,
  options: { signer?: Signer; text?: string; named?: object } = {},
): Promise<void> => {
  const timestamp = await current(scene, 'timestamp', 'timestamp.json');
  const named = timestamp.meta['snapshot.json']!.version;
  const signed = await current(scene, 'snapshot', `${named}.snapshot.json`);
  signed.version += 1;
  const version = signed.version;
  change(signed);
  const text = options.text ?? signTuf(signed, [options.signer ?? scene.server.keyring.snapshot]);
  scene.forged.set(`${METADATA}${version}.snapshot.json`, text);
  await forgeTimestamp(scene, (stamp) => {
    stamp.meta['snapshot.json'] = { ...metaOf(version, text), ...options.named };
  });
};

/** The same for `targets` and the roles below it. */
export const forgeRole = async (
  scene: Scene,
  role: string,
  change: Change,
  options: { signer: Signer; text?: string; named?: object },
): Promise<void> => {
  const timestamp = await current(scene, 'timestamp', 'timestamp.json');
  const named = timestamp.meta['snapshot.json']!.version;
  const snapshot = await current(scene, 'snapshot', `${named}.snapshot.json`);
  const before = snapshot.meta[`${role}.json`]!.version;
  const signed = await current(scene, 'targets', `${before}.${role}.json`);
  signed.version += 1;
  const version = signed.version;
  change(signed);
  const text = options.text ?? signTuf(signed, [options.signer]);
  scene.forged.set(`${METADATA}${version}.${role}.json`, text);
  await forgeSnapshot(scene, (snap) => {
    snap.meta[`${role}.json`] = { ...metaOf(version, text), ...options.named };
  });
};

/**
 * What an attacker serves who holds the targets key: a role of this name that has signed, and is asked before all
 * others.
 */
export const delegate = async (scene: Scene, role: string): Promise<void> => {
  const { server, forged } = scene;
  const signer = server.keyring.targets!;
  const expires = tufTime(server.clock.now + DAY_MS);
  const text = signTuf({ _type: 'targets', spec_version: TUF_SPEC_VERSION, version: 1, expires, targets: {} }, [
    signer,
  ]);
  forged.set(`${METADATA}1.${encodeURIComponent(role)}.json`, text);
  const stamped = await current(scene, 'timestamp', 'timestamp.json');
  const snapshot = await current(scene, 'snapshot', `${stamped.meta['snapshot.json']!.version}.snapshot.json`);
  const version = snapshot.meta['targets.json']!.version + 1;
  const targets = await current(scene, 'targets', `${version - 1}.targets.json`);
  const { keys, roles } = Delegations.parse(targets['delegations']);
  const own = { name: role, keyids: [signer.keyId], threshold: 1, terminating: false, paths: ['fw/*/*/*'] };
  const delegations = { keys: { ...keys, [signer.keyId]: signer.key }, roles: [own, ...roles] };
  const signed = signTuf({ ...targets, version, delegations }, [signer]);
  forged.set(`${METADATA}${version}.targets.json`, signed);
  await forgeSnapshot(scene, ({ meta }) => {
    meta['targets.json'] = metaOf(version, signed);
    meta[ROLE_META.test(role) ? `${role}.json` : 'other.json'] = metaOf(1, text);
  });
};
const ROLE_META = /^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$/;
const Delegations = z.object({ keys: z.record(z.string(), z.unknown()), roles: z.array(z.unknown()) });

/** A next root, with the right version unless told, signed by whom is told. */
export const forgeRoot = async (scene: Scene, change: Change, signers: Signer[], version = 2): Promise<void> => {
  const { signed }: { signed: Forged } = JSON.parse((await scene.server.repository.rootDocuments()).at(-1)!);
  signed.version = version;
  change(signed);
  scene.forged.set(`${METADATA}2.root.json`, signTuf(signed, signers));
};
