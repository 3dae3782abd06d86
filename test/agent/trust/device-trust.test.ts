import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { DeviceTrust } from '#agent/trust/device-trust.ts';
import { DEVICE_ERRORS, type DeviceErrorCode } from '#shared/deployment.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { keyIdOf } from '#shared/trust/keys.ts';
import { signPayload } from '#shared/trust/signed.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { COMPATIBLE, DAY_MS, manifestOf, newSigner, PRODUCT, rsaSigner } from '#test/server/trust/throw-away.ts';
import {
  BUILD_TIME,
  delegate,
  desire,
  forgeRole,
  forgeRoot,
  forgeSnapshot,
  forgeTimestamp,
  install,
  METADATA,
  openScene,
  readyScene,
  type Scene,
} from './device.ts';

const SELF = { compatible: COMPATIBLE, floor: 0 };
const PAST = '2026-01-01T00:00:00Z';
const reached = new Set<DeviceErrorCode>();
const codeOf = (result: { ok: true } | { ok: false; code: DeviceErrorCode }): DeviceErrorCode | 'ok' => {
  if (result.ok) return 'ok';
  reached.add(result.code);
  return result.code;
};
const check = async (scene: Scene, ...options: [Parameters<typeof desire>[1]?]) =>
  codeOf(await scene.trust.checkDesired(desire(scene, ...options)));
const checkManifest = async (scene: Scene, instruction = install(), self = SELF) =>
  codeOf(await scene.trust.checkManifest(instruction, self));
const stranger = newSigner();
/** Whatever there is beside the trust folder, and in it. */
const filesUnder = async (scene: Scene): Promise<string[]> =>
  (await readdir(dirname(scene.dir), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => relative(dirname(scene.dir), join(entry.parentPath, entry.name)))
    .sort();

test('a device believes what CI and the director signed, and they agree', async () => {
  const scene = await readyScene();
  expect(await scene.trust.checkDesired(desire(scene))).toMatchObject({
    ok: true,
    value: { seq: 1, instruction: install() },
  });
  expect(await scene.trust.checkManifest(install(), SELF)).toMatchObject({
    ok: true,
    value: { manifest: { product: PRODUCT, version: '1.0.0' }, bytes: manifestOf('1.0.0') },
  });
});

test('and so it does for an RSA key of CI', async () => {
  const scene = await openScene(rsaSigner());
  await scene.server.publish('1.0.0');
  await scene.trust.pinRoot(scene.server.repository.rootSha256);
  expect(await checkManifest(scene)).toBe('ok');
});

describe('the root', () => {
  test('is pinned by its digest, once', async () => {
    const scene = await openScene();
    const { rootSha256 } = scene.server.repository;
    const other = Sha256.parse('0'.repeat(64));
    expect(scene.trust.hasRoot()).toBe(false);
    expect(await check(scene)).toBe('ROOT_FORMAT');
    expect(codeOf(await scene.trust.pinRoot(other))).toBe('ROOT_SIGNATURE');
    expect(scene.trust.hasRoot()).toBe(false);
    expect(codeOf(await scene.trust.pinRoot(rootSha256))).toBe('ok');
    expect(scene.trust.hasRoot()).toBe(true);
    expect(codeOf(await scene.trust.pinRoot(rootSha256))).toBe('ok');
    expect(codeOf(await scene.trust.pinRoot(other))).toBe('ROOT_SIGNATURE');
    expect((await scene.restart()).hasRoot()).toBe(true);
  });
  test('cannot be pinned when it is not there, endless, not a root, or not self-signed', async () => {
    const scene = await openScene();
    const pin = async (answer: string | undefined | Error) => {
      scene.forged.set(`${METADATA}1.root.json`, answer);
      return codeOf(await scene.trust.pinRoot(sha256Hex(typeof answer === 'string' ? answer : '')));
    };
    const root = (await scene.server.repository.rootDocuments())[0]!;
    expect(await pin(undefined)).toBe('FETCH_FAILED');
    expect(await pin(new Error('no route'))).toBe('FETCH_FAILED');
    expect(await pin(`${root}${' '.repeat(70_000)}`)).toBe('ENDLESS_DATA');
    expect(await pin('{}')).toBe('ROOT_FORMAT');
    expect(await pin(root.replace(/"sig":"../, '"sig":"00'))).toBe('ROOT_SIGNATURE');
    expect(scene.trust.hasRoot()).toBe(false);
  });
  test('moves on only when old and new keys sign the next version', async () => {
    const scene = await readyScene();
    const root = scene.server.keyring.root!;
    const renewed = () => undefined;
    const attempts: [DeviceErrorCode, () => Promise<void>][] = [
      ['ROOT_FORMAT', async () => void scene.forged.set(`${METADATA}2.root.json`, '{"signed":')],
      ['ROOT_SIGNATURE', () => forgeRoot(scene, renewed, [stranger])],
      ['ROOT_SIGNATURE', () => forgeRoot(scene, renewed, [])],
      ['ROOT_ROLLBACK', () => forgeRoot(scene, renewed, [root], 1)],
      ['ROOT_ROLLBACK', () => forgeRoot(scene, renewed, [root], 3)],
      ['ROOT_EXPIRED', () => forgeRoot(scene, (signed) => void (signed.expires = PAST), [root])],
    ];
    for (const [code, attempt] of attempts) {
      await attempt();
      expect(await check(scene)).toBe(code);
    }
  });
  test('of which one key goes by two ids does not reach a threshold of two', async () => {
    const root = (scene: Scene) => scene.server.keyring.root!;
    const [first, second] = [rsaSigner(), rsaSigner('another')];
    // The same PEM without its last newline: another id, the same key.
    const key = { ...first.key, keyval: { public: first.key.keyval.public.trim() } };
    const twin = { ...first, key, keyId: keyIdOf(key) };
    const withRootKeys = async (signers: Signer[]) => {
      const scene = await readyScene();
      await forgeRoot(
        scene,
        (signed) => {
          Object.assign(signed.keys, Object.fromEntries(signers.map((signer) => [signer.keyId, signer.key])));
          Object.assign(signed.roles, { root: { keyids: signers.map((signer) => signer.keyId), threshold: 2 } });
        },
        [root(scene), ...signers],
      );
      return check(scene);
    };
    expect(twin.keyId).not.toBe(first.keyId);
    expect(await withRootKeys([first, twin])).toBe('ROOT_SIGNATURE');
    expect(await withRootKeys([first, second])).toBe('ok');
  });
  test('whose key id is not that of its key is malformed', async () => {
    const scene = await readyScene();
    const root = scene.server.keyring.root!;
    const swap = (signed: { keys: object }) =>
      void Object.assign(signed.keys, { [root.keyId]: stranger.key, [stranger.keyId]: root.key });
    await forgeRoot(scene, swap, [root]);
    expect(await check(scene)).toBe('ROOT_FORMAT');
  });
  test('can replace the timestamp key, and then the old key is worth nothing', async () => {
    const scene = await readyScene();
    expect(await check(scene)).toBe('ok');
    await forgeRoot(
      scene,
      (signed) => {
        Object.assign(signed.keys, { [stranger.keyId]: stranger.key });
        Object.assign(signed.roles, { timestamp: { keyids: [keyIdOf(stranger.key)], threshold: 1 } });
      },
      [scene.server.keyring.root!],
    );
    await forgeTimestamp(scene, () => undefined);
    expect(await check(scene)).toBe('TIMESTAMP_SIGNATURE');
    // A lower version is good again, signed by the new key: what the old key said is forgotten (fast-forward recovery).
    await forgeTimestamp(scene, (signed) => void (signed.version = 1), stranger);
    expect(await check(scene)).toBe('ok');
  });
  test('that is damaged on the disk is found again from the pinned one', async () => {
    const scene = await readyScene();
    scene.server.clock.now += 200 * DAY_MS;
    scene.clock.now = scene.server.clock.now;
    await scene.server.repository.refresh();
    expect(await check(scene)).toBe('ok');
    expect(JSON.parse(await readFile(join(scene.dir, 'root.json'), 'utf8')).signed.version).toBe(2);
    for (const damage of ['', '{"signed":{', '\u0000'.repeat(100)]) {
      await writeFile(join(scene.dir, 'root.json'), damage);
      scene.trust = await scene.restart();
      expect(scene.trust.hasRoot()).toBe(true);
      expect(await check(scene)).toBe('ok');
      expect(JSON.parse(await readFile(join(scene.dir, 'root.json'), 'utf8')).signed.version).toBe(2);
    }
    await writeFile(join(scene.dir, 'pinned-root.json'), 'damaged');
    scene.trust = await scene.restart();
    expect(await check(scene)).toBe('ok');
  });
});

describe('time', () => {
  test('is not trusted when nothing says what it is', async () => {
    const scene = await readyScene();
    scene.clock.now = 0;
    scene.trust = await scene.restart(0);
    expect(await check(scene)).toBe('TIME_UNTRUSTED');
    scene.clock.now = Number.NaN;
    expect(await check(scene)).toBe('TIME_UNTRUSTED');
  });
  test('is at least when the agent was built, so a clock at 1970 does not revive what expired before that', async () => {
    const scene = await readyScene();
    scene.clock.now = 0;
    expect(await check(scene)).toBe('ok');
    scene.trust = await scene.restart(scene.server.clock.now + 2 * DAY_MS);
    expect(await check(scene)).toBe('TIMESTAMP_EXPIRED');
  });
  test('is at least what the director attested before, also after a restart', async () => {
    const scene = await readyScene();
    scene.clock.now = 0;
    expect(await check(scene, { issuedAt: scene.server.clock.now + 2 * DAY_MS })).toBe('ok');
    scene.trust = await scene.restart();
    expect(await check(scene)).toBe('TIMESTAMP_EXPIRED');
  });
  test('that the clock once ran ahead of is not remembered', async () => {
    const scene = await readyScene();
    const sane = scene.clock.now;
    scene.clock.now = Date.UTC(2099, 0);
    expect(await check(scene)).toBe('ROOT_EXPIRED');
    scene.clock.now = sane;
    expect(await check(scene)).toBe('ok');
    expect(BUILD_TIME).toBeLessThan(sane);
  });
});

describe('the timestamp', () => {
  const path = `${METADATA}timestamp.json`;
  test('must be there, well formed, bounded, signed, fresh, and never go back', async () => {
    const scene = await readyScene();
    expect(await check(scene)).toBe('ok');
    const old = (await scene.server.repository.read('metadata', 'timestamp.json'))!;
    scene.server.clock.now += 3_600_000;
    await scene.server.publish('1.1.0');
    expect(await check(scene)).toBe('ok');
    const answers: [DeviceErrorCode, string | Buffer | Error | undefined][] = [
      ['TIMESTAMP_UNAVAILABLE', undefined],
      ['TIMESTAMP_UNAVAILABLE', new Error('reset')],
      ['TIMESTAMP_FORMAT', 'not json'],
      ['TIMESTAMP_FORMAT', old.subarray(0, 100)],
      ['TIMESTAMP_FORMAT', '['.repeat(10_000)],
      ['ENDLESS_DATA', ' '.repeat(17_000)],
      ['TIMESTAMP_ROLLBACK', old],
    ];
    for (const [code, answer] of answers) {
      scene.forged.set(path, answer);
      expect(await check(scene)).toBe(code);
    }
    await forgeTimestamp(scene, () => undefined, stranger);
    expect(await check(scene)).toBe('TIMESTAMP_SIGNATURE');
    await forgeTimestamp(scene, (signed) => void (signed.expires = PAST));
    expect(await check(scene)).toBe('TIMESTAMP_EXPIRED');
    scene.forged.delete(path);
    scene.clock.now += 2 * DAY_MS;
    expect(await check(scene)).toBe('TIMESTAMP_EXPIRED'); // frozen by a mirror
  });
});

describe('the snapshot', () => {
  test('must be what the timestamp names', async () => {
    const scene = await readyScene();
    const attempts: [DeviceErrorCode, () => Promise<void>][] = [
      ['SNAPSHOT_FORMAT', () => forgeSnapshot(scene, () => undefined, { text: '{"signatures":[]}' })],
      ['SNAPSHOT_SIGNATURE', () => forgeSnapshot(scene, () => undefined, { signer: stranger })],
      [
        'SNAPSHOT_MISMATCH',
        () => forgeSnapshot(scene, () => undefined, { named: { hashes: { sha256: 'a'.repeat(64) } } }),
      ],
      ['SNAPSHOT_MISMATCH', () => forgeSnapshot(scene, (signed) => void (signed.version = 1))],
      ['SNAPSHOT_EXPIRED', () => forgeSnapshot(scene, (signed) => void (signed.expires = PAST))],
      ['ENDLESS_DATA', () => forgeSnapshot(scene, () => undefined, { named: { length: 100 } })],
    ];
    for (const [code, attempt] of attempts) {
      const fresh = await readyScene();
      Object.assign(scene, fresh);
      await attempt();
      expect(await check(scene), `attempt ${code}`).toBe(code);
    }
    await forgeSnapshot(scene, () => undefined);
    for (const name of scene.forged.keys()) if (name.endsWith('.snapshot.json')) scene.forged.set(name, undefined);
    expect(await check(scene)).toBe('SNAPSHOT_UNAVAILABLE');
  });
  test('may neither take a role back nor drop one, nor may the timestamp name an older one', async () => {
    const scene = await readyScene();
    await scene.server.publish('1.1.0');
    expect(await check(scene)).toBe('ok');
    const change = (meta: object) => (signed: { meta: object }) => void Object.assign(signed.meta, meta);
    await forgeSnapshot(scene, change({ 'ci-gateway.json': { version: 1 } }));
    expect(await check(scene)).toBe('SNAPSHOT_ROLLBACK');
    Object.assign(scene, { trust: await scene.restart() });
    await forgeSnapshot(scene, (signed) => void delete signed.meta['ci-gateway.json']);
    await forgeTimestamp(scene, (signed) => {
      const latest = [...scene.forged].findLast(([name]) => name.endsWith('.snapshot.json'))!;
      const text = String(latest[1]);
      const version = Number(/(\d+)\.snapshot/.exec(latest[0])![1]);
      const named = { version, length: text.length, hashes: { sha256: sha256Hex(text) } };
      Object.assign(signed, {
        version: signed.version + 5,
        meta: { 'snapshot.json': named },
      });
    });
    expect(await check(scene)).toBe('SNAPSHOT_ROLLBACK');
    await forgeTimestamp(
      scene,
      (signed) => void Object.assign(signed, { version: 9_999_999_999, meta: { 'snapshot.json': { version: 1 } } }),
    );
    expect(await check(scene)).toBe('SNAPSHOT_ROLLBACK');
  });
});

describe('targets, and the role of CI', () => {
  const roles = [
    ['TARGETS', 'targets', (scene: Scene) => scene.server.keyring.targets!],
    ['DELEGATED', 'ci-gateway', (scene: Scene) => scene.server.ci],
  ] as const;
  test.each(roles)('%s metadata must be what the snapshot names', async (prefix, role, signerOf) => {
    const attempts: [string, (scene: Scene) => Promise<void>][] = [
      ['FORMAT', (s) => forgeRole(s, role, () => undefined, { signer: signerOf(s), text: '{}' })],
      ['SIGNATURE', (s) => forgeRole(s, role, () => undefined, { signer: stranger })],
      [
        'MISMATCH',
        (s) =>
          forgeRole(s, role, () => undefined, { signer: signerOf(s), named: { hashes: { sha256: 'b'.repeat(64) } } }),
      ],
      ['MISMATCH', (s) => forgeRole(s, role, (signed) => void (signed.version = 77), { signer: signerOf(s) })],
      ['EXPIRED', (s) => forgeRole(s, role, (signed) => void (signed.expires = PAST), { signer: signerOf(s) })],
      [
        'UNAVAILABLE',
        async (s) => {
          await forgeRole(s, role, () => undefined, { signer: signerOf(s) });
          for (const name of s.forged.keys()) if (name.includes(`.${role}.`)) s.forged.set(name, undefined);
        },
      ],
    ];
    for (const [code, attempt] of attempts) {
      const scene = await readyScene();
      await attempt(scene);
      expect(await checkManifest(scene), `attempt ${code}`).toBe(`${prefix}_${code}`);
    }
  });
  test('a product that has published nothing yet is unavailable, one that no one delegated not found', async () => {
    const scene = await readyScene();
    await scene.server.repository.delegateProduct(Id.parse('silent'), [stranger.key]);
    expect(await checkManifest(scene, install('1.0.0', { path: 'fw/silent/1.0.0/gw2.json' }))).toBe(
      'DELEGATED_UNAVAILABLE',
    );
    expect(await checkManifest(scene, install('1.0.0', { path: 'fw/nobody/1.0.0/gw2.json' }))).toBe('TARGET_NOT_FOUND');
    expect(await checkManifest(scene, install('2.0.0'))).toBe('TARGET_NOT_FOUND');
    expect(await checkManifest(scene, install('1.0.0', { path: '__proto__' }))).toBe('TARGET_NOT_FOUND');
  });
  test.each([
    '../../x',
    '/etc/x',
    'a/b',
    '.',
    '..',
    '1.root',
    'state.copy',
    'a\\b',
    'a\0b',
    '',
    '__proto__',
    'x'.repeat(300),
  ])('a role named %j is not metadata that a device takes, and writes nothing', async (role) => {
    const scene = await readyScene();
    await scene.trust.acceptSeq(5);
    await delegate(scene, role);
    const before = await filesUnder(scene);
    expect(await checkManifest(scene)).toBe('TARGETS_FORMAT');
    expect((await filesUnder(scene)).filter((file) => !before.includes(file))).toEqual([
      'trust/snapshot.json',
      'trust/timestamp.json',
    ]);
  });
  test.each(['state', 'State', 'pinned-root', 'ROOT', 'con', 'ci-', 'x'.repeat(80)])(
    'a role named %j is kept out of the way of what the device keeps by itself',
    async (role) => {
      const scene = await readyScene();
      await scene.trust.acceptSeq(5);
      const state = await readFile(join(scene.dir, 'state.json'), 'utf8');
      await delegate(scene, role);
      expect(await checkManifest(scene)).toBe('ok');
      expect(await readFile(join(scene.dir, 'state.json'), 'utf8')).toBe(state);
      const names = (await readdir(scene.dir)).map((name) => name.toLowerCase());
      expect(names).not.toContain(`${role.toLowerCase()}.json`.replace(/^(state|pinned-root|root)\.json$/, 'none'));
      const restarted = await scene.restart();
      expect(codeOf(await restarted.checkDesired(desire(scene, { seq: 4 })))).toBe('INSTRUCTION_REPLAY');
      scene.asked.length = 0;
      expect(codeOf(await restarted.checkManifest(install(), SELF))).toBe('ok');
      expect(scene.asked.filter((path) => path.endsWith(`${role}.json`))).toEqual([]);
    },
  );
  test('the role of a product keeps the file name that an earlier build gave it', async () => {
    const scene = await readyScene();
    expect(await checkManifest(scene)).toBe('ok');
    expect(await readdir(scene.dir)).toContain('ci-gateway.json');
  });
  test('delegations of a kind that no one uses here are not taken', async () => {
    const scene = await readyScene();
    await forgeRole(
      scene,
      'targets',
      (signed) =>
        Object.assign(signed['delegations'] ?? {}, {
          succinct_roles: { keyids: [], threshold: 1, bit_length: 1, name_prefix: '../../x' },
        }),
      { signer: scene.server.keyring.targets! },
    );
    expect(await checkManifest(scene)).toBe('TARGETS_FORMAT');
  });
  test("one product's CI cannot sign for another product's paths", async () => {
    const scene = await readyScene();
    const other = Id.parse('other');
    await scene.server.repository.delegateProduct(other, [stranger.key]);
    const path = 'fw/other/1.0.0/gw2.json';
    const steal = ({ targets }: { targets: Record<string, unknown> }) => {
      targets[path] = Object.values(targets)[0];
    };
    await forgeRole(scene, 'ci-gateway', steal, { signer: scene.server.ci });
    expect(await checkManifest(scene, install('1.0.0', { path }))).toBe('DELEGATED_UNAVAILABLE');
  });
});

describe('the instruction', () => {
  test('must be of the expected form', async () => {
    const scene = await readyScene();
    const good = desire(scene);
    const documents: ReturnType<typeof JSON.parse>[] = [
      null,
      {},
      { ...good, leaf: 'no json' },
      { ...good, leaf: '{}' },
      { ...good, index: -1 },
    ];
    for (const bad of documents) {
      expect(codeOf(await scene.trust.checkDesired(bad))).toBe('INSTRUCTION_FORMAT');
    }
    const batch = signPayload(scene.server.keyring.director, { type: 'sluice/other/1' });
    expect(codeOf(await scene.trust.checkDesired({ ...good, batch }))).toBe('INSTRUCTION_FORMAT');
  });
  test('must be signed by the director that targets names', async () => {
    const scene = await readyScene();
    expect(await check(scene, { signer: stranger })).toBe('INSTRUCTION_SIGNATURE');
    expect(await check(scene, { signer: scene.server.keyring.log })).toBe('INSTRUCTION_SIGNATURE');
    expect(await check(scene, { signer: scene.server.ci })).toBe('INSTRUCTION_SIGNATURE');
    const good = desire(scene);
    const payload = good.batch.payload.replace('"size":3', '"size":4');
    expect(codeOf(await scene.trust.checkDesired({ ...good, batch: { ...good.batch, payload } }))).toBe(
      'INSTRUCTION_SIGNATURE',
    );
  });
  test('must be part of the batch that was signed', async () => {
    const scene = await readyScene();
    const good = desire(scene);
    const attempts = [
      { ...good, leaf: good.leaf.replace('"seq":1', '"seq":2') },
      { ...good, index: 0 },
      { ...good, index: 1e9 },
      { ...good, proof: good.proof.slice(1) },
      { ...good, proof: good.proof.toReversed() },
      { ...good, proof: [...good.proof, good.proof[0]!] },
    ];
    for (const attempt of attempts) expect(codeOf(await scene.trust.checkDesired(attempt))).toBe('INSTRUCTION_PROOF');
  });
  test('must be for this device', async () => {
    const scene = await readyScene();
    expect(await check(scene, { device: Id.parse('gw-09') })).toBe('INSTRUCTION_NOT_FOR_ME');
  });
  test('must not be older than what was accepted, also after a restart and with one copy of the memory damaged', async () => {
    const scene = await readyScene();
    await scene.trust.acceptSeq(7);
    await scene.trust.acceptSeq(3);
    const ask = async (trust: DeviceTrust, seq: number) => codeOf(await trust.checkDesired(desire(scene, { seq })));
    expect(await ask(scene.trust, 6)).toBe('INSTRUCTION_REPLAY');
    expect(await ask(scene.trust, 7)).toBe('ok');
    expect(await ask(scene.trust, 8)).toBe('ok');
    expect(await ask(scene.trust, 7)).toBe('ok'); // checking accepts nothing
    for (const name of ['state.json', 'state.copy.json']) {
      await writeFile(join(scene.dir, name), '{"seq":');
      expect(await ask(await scene.restart(), 6)).toBe('INSTRUCTION_REPLAY');
      await (await scene.restart()).acceptSeq(8);
    }
    expect(await ask(await scene.restart(), 7)).toBe('INSTRUCTION_REPLAY');
  });
  test('must not have expired', async () => {
    const scene = await readyScene();
    expect(await check(scene, { issuedAt: scene.clock.now - 2000, expires: scene.clock.now })).toBe(
      'INSTRUCTION_EXPIRED',
    );
    expect(await check(scene, { issuedAt: scene.clock.now - 2000, expires: scene.clock.now + 1 })).toBe('ok');
  });
});

describe('the manifest', () => {
  test('must be the one that both CI and the director name', async () => {
    const scene = await readyScene();
    const other: Parameters<typeof install>[1][] = [
      { sha256: Sha256.parse('c'.repeat(64)) },
      { length: 5 },
      { product: Id.parse('other') },
      { version: '1.0.1' },
      { compatible: Id.parse('gw3') },
      { securityCounter: 4 },
    ];
    for (const changes of other)
      expect(await checkManifest(scene, install('1.0.0', changes))).toBe('DIRECTOR_IMAGE_MISMATCH');
  });
  test('must come as it was signed', async () => {
    const scene = await readyScene();
    const path = `/tuf/targets/fw/gateway/1.0.0/${install().sha256}.gw2.json`;
    const bytes = manifestOf('1.0.0');
    const answers: [DeviceErrorCode, Buffer | undefined | Error][] = [
      ['FETCH_FAILED', undefined],
      ['FETCH_FAILED', new Error('timeout')],
      ['TARGET_HASH', bytes.subarray(1)],
      ['TARGET_HASH', Buffer.from(bytes.toString().replace('"app"', '"abb"'))],
      ['ENDLESS_DATA', Buffer.concat([bytes, Buffer.from(' ')])],
    ];
    for (const [code, answer] of answers) {
      scene.forged.set(path, answer);
      expect(await checkManifest(scene)).toBe(code);
    }
  });
  test('must be one that the agent understands', async () => {
    const scene = await readyScene();
    for (const [version, bytes] of [
      ['2.0.0', Buffer.from('no json')],
      ['2.0.1', manifestOf('2.0.1', { format: 2 })],
      ['2.0.2', manifestOf('2.0.2', { surprise: true })],
    ] as const) {
      await scene.server.publish(version, bytes);
      const named = install(version, { sha256: sha256Hex(bytes), length: bytes.length });
      expect(await checkManifest(scene, named)).toBe('MANIFEST_FORMAT');
    }
  });
  test('must fit the hardware and not go below what was committed', async () => {
    const scene = await readyScene();
    expect(await checkManifest(scene, install(), { compatible: Id.parse('gw9'), floor: 0 })).toBe(
      'INCOMPATIBLE_HARDWARE',
    );
    expect(await checkManifest(scene, install(), { compatible: COMPATIBLE, floor: 4 })).toBe('DOWNGRADE');
    expect(await checkManifest(scene, install(), { compatible: COMPATIBLE, floor: 3 })).toBe('ok');
  });
});

test('checks that run at once neither lose what was accepted nor disturb each other', async () => {
  const scene = await readyScene();
  const seqs = Array.from({ length: 8 }, (_, index) => index + 1);
  const issuedAt = (seq: number) => scene.server.clock.now + seq * 3_600_000;
  const codes = await Promise.all([
    ...seqs.map((seq) => check(scene, { seq: seq + 8, issuedAt: issuedAt(seq) })),
    ...seqs.map((seq) => scene.trust.acceptSeq(seq)),
    checkManifest(scene),
  ]);
  expect(codes.filter((code) => code !== undefined && code !== 'ok')).toEqual([]);
  scene.trust = await scene.restart();
  expect(await check(scene, { seq: 7 })).toBe('INSTRUCTION_REPLAY');
});

describe('requests', () => {
  test('are one when nothing has changed, and only what has changed otherwise', async () => {
    const scene = await readyScene();
    expect(await check(scene)).toBe('ok');
    scene.asked.length = 0;
    expect(await check(scene)).toBe('ok');
    expect(scene.asked).toEqual([`${METADATA}timestamp.json`]);
    await scene.server.publish('1.1.0');
    scene.asked.length = 0;
    expect(await check(scene)).toBe('ok');
    expect(scene.asked.map((path) => path.replace(/\d{5,}/, 'n'))).toEqual([
      `${METADATA}timestamp.json`,
      `${METADATA}2.root.json`,
      `${METADATA}n.snapshot.json`,
    ]);
  });
  test('look for a newer root at least every hour', async () => {
    const scene = await readyScene();
    expect(await check(scene)).toBe('ok');
    scene.asked.length = 0;
    scene.clock.now += 3_600_000;
    expect(await check(scene)).toBe('ok');
    expect(scene.asked).toContain(`${METADATA}2.root.json`);
  });
});

test('whatever file is lost or damaged, the device believes the same afterwards', async () => {
  const scene = await readyScene();
  expect(await checkManifest(scene)).toBe('ok');
  expect(await check(scene)).toBe('ok');
  const names = await readdir(scene.dir);
  expect(names.sort()).toEqual([
    'ci-gateway.json',
    'pinned-root.json',
    'snapshot.json',
    'state.copy.json',
    'state.json',
    'targets.json',
    'timestamp.json',
  ]);
  for (const name of names.filter((one) => one !== 'pinned-root.json')) {
    for (const damage of [undefined, '', '{}', '{"signed":{}', 'x'.repeat(2_000_000)]) {
      await rm(join(scene.dir, name));
      if (damage !== undefined) await writeFile(join(scene.dir, name), damage);
      scene.trust = await scene.restart();
      expect(await checkManifest(scene), `without ${name}`).toBe('ok');
      expect(await check(scene), `without ${name}`).toBe('ok');
      await scene.trust.acceptSeq(1 + names.length); // writes the memory again
      await writeFile(join(scene.dir, 'state.json'), '{"seq":1,"floor":0}');
      await writeFile(join(scene.dir, 'state.copy.json'), '{"seq":1,"floor":0}');
    }
  }
});

test('every code that these checks can give was given above', () => {
  // The rest are for what comes after trust.
  const before = DEVICE_ERRORS.slice(0, DEVICE_ERRORS.indexOf('PRECONDITION'));
  const codes: DeviceErrorCode[] = [...before, 'ENDLESS_DATA', 'FETCH_FAILED', 'TARGET_HASH'];
  expect(codes.filter((code) => !reached.has(code))).toEqual([]);
});
