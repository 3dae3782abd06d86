/**
 * Whom the device believes. Everything that it acts on passes here, in a fixed order of checks, each with its own code
 * (`DEVICE_ERRORS`): TUF metadata, the director's instruction, the manifest that CI signed, and that both agree.
 */
import { TUF_METADATA, TUF_TARGETS } from '#shared/device-api.ts';
import { type Id, manifestPath, type Sha256 } from '#shared/ids.ts';
import { oneAtATime } from '#shared/in-turn.ts';
import { MANIFEST_BYTES_MAX, Manifest } from '#shared/manifest.ts';
import type { Desired, DesiredLeaf, Instruction } from '#shared/messages.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { isSignedByRole, parseTuf, TUF_BYTES_MAX } from '#shared/trust/tuf.ts';
import { storageRefusal } from '../process/system-error.ts';
import { judgeInstruction, readInstruction } from './instruction.ts';
import { loadRoot, refreshDelegated, refreshMetadata, type Verified } from './metadata.ts';
import { openTrustFiles, type TrustFiles } from './trust-files.ts';
import { bad, fetchBounded, good, type TrustFetch, type TrustResult } from './trust-result.ts';

export type { TrustFetch } from './trust-result.ts';

export type InstallInstruction = Extract<Instruction, { kind: 'install' }>;

export type DeviceTrust = {
  /**
   * Fetches the first root metadata and pins it, when its SHA-256 is this (from the enrolment token). Again with the
   * same digest: nothing happens. `FETCH_FAILED`, `ROOT_FORMAT`, `ROOT_SIGNATURE` (also for another root than the one
   * that is pinned).
   */
  pinRoot(sha256: Sha256): Promise<TrustResult<void>>;
  hasRoot(): boolean;
  /** It is certainly not earlier: the build, and what the director attested. */
  earliest(): number;
  /**
   * Trusted time: the clock, or `earliest` when that is later. Undefined when the clock was never set, and nothing else
   * tells.
   */
  time(): number | undefined;
  /**
   * Refreshes the metadata and checks the document up to `INSTRUCTION_EXPIRED`. Does not remember its `seq`: call
   * `acceptSeq` before acting on it. A document with the `seq` accepted last passes, so that it can be checked again
   * before activating; the caller tells by the `seq` that it is not new.
   */
  checkDesired(desired: Desired): Promise<TrustResult<DesiredLeaf>>;
  /** Durable when it resolves. A lower number than before changes nothing. */
  acceptSeq(seq: number): Promise<void>;
  /**
   * Finds the manifest that the instruction names, as CI signed it, and checks it up to `DOWNGRADE`. `floor`: the
   * highest security counter committed.
   */
  checkManifest(
    instruction: InstallInstruction,
    device: { compatible: Id; floor: number },
  ): Promise<TrustResult<{ manifest: Manifest; bytes: Buffer }>>;
};

/** 2024: a clock before it was never set. */
const SANE_TIME_MIN = Date.UTC(2024, 0);
/** A newer root is looked for at least this often, even when nothing else changes. */
const ROOT_PROBE_MS = 3_600_000;
/** The attested time is written down when it has grown by this much: a disk should not wear for it. */
const FLOOR_STEP_MS = 600_000;
const DELEGATIONS_MAX = 8;

type Trust = {
  files: TrustFiles;
  fetch: TrustFetch;
  device: Id;
  now: () => number;
  buildTime: number;
  rootProbedAt: number | null;
  /** While there is no root: why it could not be pinned. */
  unpinned: TrustResult<void> | null;
};

/**
 * `dir` is this module's alone. `now`: the device's clock, in milliseconds; `buildTime`: when the agent was built,
 * which it is certainly later than.
 */
export const openDeviceTrust = async (options: {
  dir: string;
  device: Id;
  fetch: TrustFetch;
  now: () => number;
  buildTime: number;
}): Promise<DeviceTrust> => {
  const { dir, ...rest } = options;
  const trust: Trust = { ...rest, files: await openTrustFiles(dir), rootProbedAt: null, unpinned: null };
  let rooted = (await loadRoot(trust.files)) !== undefined;
  const inTurn = oneAtATime();
  return {
    pinRoot: (sha256) =>
      inTurn(async () => {
        const pinned = await unlessRefused(pinRoot(trust, sha256));
        rooted ||= pinned.ok;
        trust.unpinned = rooted ? null : pinned;
        return pinned;
      }),
    hasRoot: () => rooted,
    earliest: () => earliest(trust),
    time: () => (trustedTime(trust) >= SANE_TIME_MIN ? trustedTime(trust) : undefined),
    checkDesired: (desired) => inTurn(() => unlessRefused(checkDesired(trust, desired))),
    acceptSeq: (seq) =>
      inTurn(async () => {
        const before = trust.files.remembered();
        if (seq > before.seq) await trust.files.remember({ ...before, seq });
      }),
    checkManifest: (instruction, device) => inTurn(() => unlessRefused(checkManifest(trust, instruction, device))),
  };
};

/** What cannot be remembered is not believed. */
const unlessRefused = <T>(checking: Promise<TrustResult<T>>): Promise<TrustResult<T>> =>
  checking.catch((error: unknown) => storageRefusal(error, 'what was checked cannot be remembered'));

const pinRoot = async (trust: Trust, sha256: Sha256): Promise<TrustResult<void>> => {
  const kept = await trust.files.read('pinned-root');
  if (kept !== undefined && sha256Hex(kept) === sha256) return good(undefined);
  if (kept !== undefined && parseTuf('root', kept).ok) {
    return bad('ROOT_SIGNATURE', 'another root is pinned on this device already');
  }
  const path = `${TUF_METADATA}1.root.json`;
  const fetched = await fetchBounded(trust.fetch, path, TUF_BYTES_MAX.root, 'FETCH_FAILED');
  if (!fetched.ok) return fetched;
  if (sha256Hex(fetched.value) !== sha256)
    return bad('ROOT_SIGNATURE', `the root offered is not the one with digest ${sha256}`);
  const parsed = parseTuf('root', fetched.value);
  if (!parsed.ok) return bad('ROOT_FORMAT', parsed.why);
  if (!isSignedByRole(parsed.document, parsed.document.signed, 'root')) {
    return bad('ROOT_SIGNATURE', 'the root offered is not signed by its own keys');
  }
  await trust.files.write('pinned-root', fetched.value);
  return good(undefined);
};

/**
 * The latest of the clock, the build, and what the director attested. Only attested time is remembered, never the
 * clock's: a clock that once ran ahead must not make everything look expired for good.
 */
const trustedTime = (trust: Trust): number => Math.max(trust.now(), earliest(trust));
const earliest = (trust: Trust): number => Math.max(trust.buildTime, trust.files.remembered().floor);

const refresh = async (trust: Trust): Promise<TrustResult<Verified>> => {
  if (trust.unpinned?.ok === false) return trust.unpinned;
  const time = trustedTime(trust);
  if (!(time >= SANE_TIME_MIN)) {
    return bad('TIME_UNTRUSTED', 'the clock was never set, and nothing else tells what time it is at least');
  }
  const since = trust.rootProbedAt === null ? Number.POSITIVE_INFINITY : Math.abs(time - trust.rootProbedAt);
  const probeRoot = since >= ROOT_PROBE_MS;
  const refreshed = await refreshMetadata({ files: trust.files, fetch: trust.fetch, time }, probeRoot);
  if (refreshed.ok && probeRoot) trust.rootProbedAt = time;
  return refreshed;
};

const checkDesired = async (trust: Trust, desired: Desired): Promise<TrustResult<DesiredLeaf>> => {
  const verified = await refresh(trust);
  if (!verified.ok) return verified;
  const read = readInstruction(desired, verified.value.targets);
  if (!read.ok) return read;
  const before = trust.files.remembered();
  const attested = read.value.batch.issuedAt;
  if (attested > before.floor + FLOOR_STEP_MS) await trust.files.remember({ ...before, floor: attested });
  const facts = { device: trust.device, seqAccepted: before.seq, time: trustedTime(trust) };
  return judgeInstruction(read.value, facts);
};

const checkManifest = async (
  trust: Trust,
  instruction: InstallInstruction,
  device: { compatible: Id; floor: number },
): Promise<TrustResult<{ manifest: Manifest; bytes: Buffer }>> => {
  const verified = await refresh(trust);
  if (!verified.ok) return verified;
  const target = await findTarget(trust, verified.value, instruction.path);
  if (!target.ok) return target;
  const { sha256, length } = target.value;
  if (instruction.sha256 !== sha256 || instruction.length !== length) {
    return bad('DIRECTOR_IMAGE_MISMATCH', 'the director names another manifest than the one that CI signed');
  }
  const fetched = await fetchManifest(trust, instruction.path, { sha256, length });
  if (!fetched.ok) return fetched;
  const manifest = parseManifest(fetched.value);
  if (manifest === undefined) return bad('MANIFEST_FORMAT', 'the manifest is not one that this agent understands');
  if (!agrees(instruction, manifest)) {
    return bad('DIRECTOR_IMAGE_MISMATCH', 'the instruction says something else than the manifest');
  }
  if (manifest.compatible !== device.compatible) {
    return bad(
      'INCOMPATIBLE_HARDWARE',
      `the manifest is for ${manifest.compatible}, this device is ${device.compatible}`,
    );
  }
  if (manifest.securityCounter < device.floor) {
    return bad(
      'DOWNGRADE',
      `its security counter is ${manifest.securityCounter}, and this device committed ${device.floor}`,
    );
  }
  return good({ manifest, bytes: fetched.value });
};

/**
 * Section 5.6.7, one level deep: targets itself, then the roles that it delegates the path to, in order, until a
 * terminating one.
 */
const findTarget = async (
  trust: Trust,
  verified: Verified,
  path: string,
): Promise<TrustResult<{ sha256: string; length: number }>> => {
  const { targets } = verified;
  const own = targetOf(targets.signed.targets, path);
  if (own !== undefined) return good(own);
  let roles = 0;
  for (const { role, terminating } of targets.signed.delegations?.rolesForTarget(path) ?? []) {
    roles += 1;
    if (roles > DELEGATIONS_MAX) break;
    const delegated = await refreshDelegated({ ...trust, time: trustedTime(trust) }, verified, role);
    if (!delegated.ok) return delegated;
    const found = targetOf(delegated.value.signed.targets, path);
    if (found !== undefined) return good(found);
    if (terminating) break;
  }
  return bad('TARGET_NOT_FOUND', `no one who may sign for ${path} has signed for it`);
};

type Targets = Verified['targets']['signed']['targets'];
const targetOf = (targets: Targets, path: string): { sha256: string; length: number } | undefined => {
  const target = Object.hasOwn(targets, path) ? targets[path] : undefined;
  const sha256 = target?.hashes['sha256'];
  return target === undefined || sha256 === undefined ? undefined : { sha256, length: target.length };
};

const fetchManifest = async (
  trust: Trust,
  path: string,
  target: { sha256: string; length: number },
): Promise<TrustResult<Buffer>> => {
  const slash = path.lastIndexOf('/') + 1;
  const url = `${TUF_TARGETS}${path.slice(0, slash)}${target.sha256}.${path.slice(slash)}`;
  const fetched = await fetchBounded(trust.fetch, url, Math.min(target.length, MANIFEST_BYTES_MAX), 'FETCH_FAILED');
  if (!fetched.ok) return fetched;
  if (fetched.value.length !== target.length || sha256Hex(fetched.value) !== target.sha256) {
    return bad('TARGET_HASH', `${path} is not what CI signed`);
  }
  return fetched;
};

const parseManifest = (bytes: Buffer): Manifest | undefined => {
  try {
    return Manifest.safeParse(JSON.parse(bytes.toString())).data;
  } catch {
    return undefined; // not JSON
  }
};

const agrees = (instruction: InstallInstruction, manifest: Manifest): boolean =>
  instruction.product === manifest.product &&
  instruction.version === manifest.version &&
  instruction.compatible === manifest.compatible &&
  instruction.securityCounter === manifest.securityCounter &&
  instruction.path === manifestPath(manifest.product, manifest.version, manifest.compatible);
