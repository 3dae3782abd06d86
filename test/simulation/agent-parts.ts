/** What a simulated agent talks to: the server over HTTP, and a trust store without TUF metadata. */
import type { ApplicationFiles } from '#agent/application/application-files.ts';
import type { DataSnapshots } from '#agent/application/data-snapshot.ts';
import { leafOf } from '#agent/deployment/desired.ts';
import type { PerformOptions } from '#agent/deployment/perform-parts.ts';
import type { Http } from '#agent/server/http.ts';
import type { DeviceTrust } from '#agent/trust/device-trust.ts';
import { judgeInstruction } from '#agent/trust/instruction.ts';
import type { Id } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import { DesiredBatch, DesiredLeaf } from '#shared/messages.ts';
import { leafHash, verifyInclusion } from '#shared/trust/merkle.ts';
import { verifySigned } from '#shared/trust/signed.ts';
import type { Device, DeviceDeps, Verified } from './agent.ts';
import type { AskedFor } from './network.ts';
import type { Process } from './time.ts';

/** A simulated application has none of its own. */
const NO_FILES: ApplicationFiles = {
  dataDir: '/application',
  secretsDir: '/secrets',
  environment: async () => ({ ok: true, values: {} }),
  withoutSecrets: async (text) => text,
};

const NO_DATA: DataSnapshots = {
  check: async () => ({ ok: true }),
  take: async () => ({ ok: true }),
  settle: async () => ({ ok: true }),
};

/** The effects of a device that has slots and a network, and nothing more. */
export const PLAIN = {
  files: NO_FILES,
  data: NO_DATA,
  holds: { wait: async () => 'go' },
  onProgress: () => {},
  keepLog: async () => {},
  keepChecks: async () => {},
} satisfies Partial<PerformOptions>;

export const PLAIN_CONFIG = {
  trialTries: 3,
  unreachableMs: 60_000,
  health: { checks: [], probes: [], intervalMs: 60_000 },
  data: { bytesMax: 0 },
  metered: { policy: 'allow', delayMs: 0, bytesFree: 0 },
} satisfies Partial<PerformOptions['config']>;

/** `GET /device/v1/desired`, and objects: slow, and broken off in the middle now and then. */
export const openHttpFor = (
  { world, network }: Pick<DeviceDeps, 'world' | 'network'>,
  device: Id,
  process: Process,
  why: AskedFor,
): Pick<Http, 'get' | 'getJson' | 'distrustCache'> => {
  const random = world.random(`http ${device}`);
  return {
    distrustCache: () => {},
    getJson: async (path, schema) => {
      const answer = await network.ask(device, process, why);
      if (answer === undefined)
        return { ok: false, answered: false, code: 'unavailable', message: `${path}: no answer` };
      return { ok: true, value: schema.parse(answer) };
    },
    get: async (path, headers) => {
      await world.time.sleep(random.between(500, 20_000));
      if ((await network.ask(device, process, 'news')) === undefined) throw new TypeError('fetch failed');
      const bytes = world.objects.get(path.split('/').at(-1)!);
      if (bytes === undefined) return new Response('', { status: 404 });
      const from = Number(/^bytes=(\d+)-$/.exec(headers['range'] ?? '')?.[1] ?? 0);
      const rest = bytes.subarray(from);
      const isBroken = world.strikes('loss', random, 0.1);
      // What is announced and does not come: the agent resumes there.
      const body = isBroken ? rest.subarray(0, Math.floor(rest.length / 2)) : rest;
      const range = { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` };
      return new Response(new Uint8Array(body), {
        status: from > 0 ? 206 : 200,
        headers: { etag: headers['if-range'] ?? '"simulated"', ...(from > 0 ? range : {}) },
      });
    },
  };
};

/**
 * The director's signature, the proof, and the rules of agent/trust/instruction.ts; manifests as CI made them, without
 * their metadata.
 */
export const openTrust = (
  deps: DeviceDeps,
  device: Device,
  accepted: { seq: number },
  process: Process,
  now: () => number,
) => {
  const { world } = deps;
  let newest: Verified | null = null;
  let attestedAt = 0;
  const checkDesired: DeviceTrust['checkDesired'] = async (desired) => {
    const leaf = DesiredLeaf.parse(leafOf(desired));
    const batch = DesiredBatch.parse(JSON.parse(desired.batch.payload));
    const hashes = desired.proof.map((hash) => Buffer.from(hash, 'hex'));
    const root = Buffer.from(batch.root, 'hex');
    const proven = verifyInclusion(leafHash(desired.leaf), desired.index, batch.size, hashes, root);
    if (!proven || !verifySigned(desired.batch, deps.director.key)) {
      world.violate(`${device.id}: a desired document that does not verify`);
      return { ok: false, code: 'INSTRUCTION_SIGNATURE', message: 'it does not verify' };
    }
    const judged = judgeInstruction({ leaf, batch }, { device: device.id, seqAccepted: accepted.seq, time: now() });
    if (judged.ok) {
      attestedAt = Math.max(attestedAt, batch.issuedAt);
      if (leaf.seq > (newest?.seq ?? 0))
        newest = { seq: leaf.seq, instruction: leaf.instruction, at: world.time.now() };
    }
    return judged;
  };
  const checkManifest: DeviceTrust['checkManifest'] = async ({ sha256 }) => {
    const asked = await deps.network.ask(device.id, process, 'news');
    const bytes = world.objects.get(sha256);
    if (asked === undefined || bytes === undefined)
      return { ok: false, code: 'TIMESTAMP_UNAVAILABLE', message: 'no answer' };
    return { ok: true, value: { manifest: Manifest.parse(JSON.parse(bytes.toString('utf8'))), bytes } };
  };
  return {
    newest: (): Verified | null => newest,
    hasRoot: () => true,
    earliest: () => attestedAt,
    time: () => Math.max(now(), attestedAt),
    checkDesired,
    checkManifest,
  };
};
