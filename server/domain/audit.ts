/**
 * Every sentence that the audit log can hold, in one place: as data (canonical JSON, what the Merkle leaf hashes) and
 * in words.
 */
import { z } from 'zod';
import { DEPLOYMENT_STATES, DEVICE_ERRORS, OVERDUE_CLASSES } from '#shared/deployment.ts';
import { Id, Millis, Sha256 } from '#shared/ids.ts';
import { Signed } from '#shared/messages.ts';
import { STAY_REASONS, STAYS } from '#shared/recall.ts';
import { canonicalJson } from '#shared/trust/canonical.ts';
import { HaltReason, sentenceOfHalt } from './halt-reason.ts';
import { durationWords, plural } from './words.ts';

/** `by` of what the server decided itself. */
export const BY_SERVER = 'server';
/** `by` of what a device said. */
export const byDevice = (device: Id): string => `device:${device}`;

const count = z.number().int().min(0);
/** `decision`: the digest of the decision about a rollout that the line is of (domain/decision.ts). */
const line = <K extends string, S extends z.core.$ZodLooseShape>(kind: K, shape: S) =>
  z.object({ at: Millis, by: z.string(), kind: z.literal(kind), decision: Sha256.optional(), ...shape });

export const AuditEvent = z.discriminatedUnion('kind', [
  line('server-initialised', { rootSha256: z.string() }),
  /** `size` and `root`: the log as the backup had it. What came after that is not in it any more. */
  line('server-restored', { backupAt: Millis, size: count, root: z.string() }),
  /** By how much this machine's clock was set; what rollouts count from moved along. */
  line('clock-set', { stepMs: z.number().int() }),
  line('operator-created', { name: z.string(), role: z.string() }),
  line('operator-revoked', { name: z.string() }),
  line('product-created', { product: Id, keys: z.array(z.string()) }),
  line('bundle-accepted', {
    product: Id,
    version: z.string(),
    compatible: Id,
    manifest: z.string(),
    keyId: z.string(),
  }),
  line('release-staged', { product: Id, version: z.string(), channel: Id }),
  line('release-checked', {
    product: Id,
    version: z.string(),
    check: Id,
    outcome: z.enum(['pass', 'fail']),
    link: z.string().nullable(),
  }),
  line('release-approved', { product: Id, version: z.string(), channel: Id, note: z.string() }),
  /** `approvedBy`: whose approvals counted. */
  line('release-promoted', { product: Id, version: z.string(), from: Id, to: Id, approvedBy: z.array(z.string()) }),
  line('release-withdrawn', { product: Id, version: z.string(), reason: z.string() }),
  line('enrolment-tokens-created', { tokens: count, device: Id.nullable() }),
  line('device-enrolled', {
    device: Id,
    publicKey: z.string(),
    compatible: Id,
    state: z.enum(['pending', 'accepted']),
    /** Another key had this id before; it counts no more from here on. */
    replaced: z.literal(true).optional(),
  }),
  line('device-accepted', { device: Id }),
  line('device-rejected', { device: Id }),
  line('device-tagged', { device: Id, tags: z.record(z.string(), z.string()) }),
  line('cohort-created', { cohort: Id }),
  line('rollout-planned', {
    rollout: Id,
    product: Id,
    version: z.string(),
    devices: count,
    waveSizes: z.array(count),
    excluded: count,
    /** Of the excluded: they have committed a higher security counter. */
    belowFloor: count.optional(),
    /** To take back devices of this rollout. */
    recalls: Id.optional(),
  }),
  /** `approvedBy`: everyone whose approval counts with this one. */
  line('rollout-approved', { rollout: Id, approvedBy: z.array(z.string()), needed: count, note: z.string() }),
  line('rollout-started', { rollout: Id }),
  line('wave-opened', { rollout: Id, wave: count, why: z.string() }),
  line('rollout-paused', { rollout: Id, note: z.string() }),
  /**
   * `acknowledged`: after a halt, how many failed devices no longer count; `neverHeard`: the same of those never heard.
   */
  line('rollout-resumed', {
    rollout: Id,
    note: z.string(),
    acknowledged: count.optional(),
    neverHeard: count.optional(),
  }),
  /** By resuming it: these failures no longer count. At most 500 devices a line. */
  line('failures-acknowledged', { rollout: Id, devices: z.array(Id) }),
  line('rollout-halted', { rollout: Id, reason: HaltReason }),
  line('rollout-aborted', { rollout: Id, note: z.string() }),
  /** `to`: a release for all of its devices, instead of what each ran before. */
  line('rollout-recalled', { rollout: Id, to: z.string().nullable(), note: z.string() }),
  /** Devices that committed after `recalls` was recalled. At most 500 devices a line. */
  line('recall-joined', { rollout: Id, recalls: Id, devices: z.array(Id) }),
  line('recall-stays', { rollout: Id, devices: z.array(Id), reason: z.enum(STAY_REASONS) }),
  line('rollout-activated', { rollout: Id, installed: count, note: z.string() }),
  line('rollout-completed', { rollout: Id }),
  /** Its first so many, the last of which had the digest `newest`; a rollout that is over keeps its newest decision. */
  line('decisions-pruned', { rollout: Id, decisions: count, newest: Sha256 }),
  /** At most 500 devices a line. */
  line('offered', { rollout: Id, wave: count, devices: z.array(Id) }),
  line('withdrawn', { rollout: Id, devices: z.array(Id), reason: z.string() }),
  line('replanned', { rollout: Id, devices: z.array(Id) }),
  /** Devices that came to match a cohort that the rollout follows. */
  line('rollout-joined', { rollout: Id, wave: count, devices: z.array(Id) }),
  /** Two devices use its key: a life of it that was over spoke again. */
  line('key-shared', { device: Id }),
  line('device-drifted', { device: Id, expected: z.string(), running: z.string() }),
  /** `deployment`: what it is busy with, where it does not run what it should. */
  line('drift-ended', { device: Id, running: z.string(), deployment: Id.nullable() }),
  line('drift-adopted', { device: Id, running: z.string(), note: z.string() }),
  /** `rollout` gets these devices back when `for`, which comes first, is done with them. */
  line('taken-over', { rollout: Id, for: Id, devices: z.array(Id) }),
  line('skipped', { rollout: Id, devices: z.array(Id) }),
  /** `reached`: the state that they did not get beyond. */
  line('overdue', {
    rollout: Id,
    class: z.enum(OVERDUE_CLASSES),
    reached: z.enum(DEPLOYMENT_STATES),
    devices: z.array(Id),
  }),
  /** The device moved on by its own report. */
  line('deployment-moved', {
    rollout: Id,
    deployment: Id,
    device: Id,
    from: z.string(),
    to: z.string(),
    error: z.enum(DEVICE_ERRORS).optional(),
    message: z.string().optional(),
  }),
  /** A device failed for a cause outside of the release: it is offered it again, not before `notBefore`. */
  line('retry-planned', {
    rollout: Id,
    deployment: Id,
    device: Id,
    error: z.enum(DEVICE_ERRORS).optional(),
    message: z.string().optional(),
    notBefore: Millis.nullable(),
    ended: count,
  }),
  /** A device that committed did not do well while it was watched. */
  line('regressed', { rollout: Id, deployment: Id, device: Id, to: z.enum(['reverted', 'failed']), why: z.string() }),
  /** The device-signed proof, its signature checked before it came here. */
  line('receipt', { device: Id, deployment: Id, receipt: Signed }),
  line('receipt-refused', { device: Id, why: z.string() }),
]);
export type AuditEvent = z.infer<typeof AuditEvent>;

/** Canonical JSON has integers only, and no `undefined`: other numbers become text, absent members vanish. */
const canonicalForm = (value: unknown): unknown => {
  if (typeof value === 'number' && !Number.isInteger(value)) return String(value);
  if (Array.isArray(value)) return value.map(canonicalForm);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .map(([name, member]) => [name, canonicalForm(member)]),
  );
};

/** The line of the log: exactly the bytes that its Merkle leaf hashes. */
export const auditLine = (event: AuditEvent): { payload: string } => ({ payload: canonicalJson(canonicalForm(event)) });

/** The event of a line; undefined when it is not one that this version knows. */
export const parseAuditEvent = (payload: string): AuditEvent | undefined => {
  try {
    const parsed = AuditEvent.safeParse(JSON.parse(payload));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined; // not JSON
  }
};

const DEVICES_NAMED_MAX = 5;
/** `device gw-01`, `devices gw-01, gw-02`, `40 devices (gw-01, gw-02, gw-03, gw-04, gw-05, ...)`. */
const naming = (devices: Id[]): string => {
  if (devices.length === 1) return `device ${devices[0]}`;
  const named = devices.slice(0, DEVICES_NAMED_MAX).join(', ');
  return devices.length <= DEVICES_NAMED_MAX ? `devices ${named}` : `${devices.length} devices (${named}, ...)`;
};
const noted = (note: string): string => (note === '' ? '' : `: ${note}`);

/** The device's own reports, after the code that they belong to. */
const errorWords = ({ error, message }: { error?: string | undefined; message?: string | undefined }): string =>
  error === undefined ? '' : ` (${error}${message === undefined || message === '' ? '' : `: ${message}`})`;

type Words = { [K in AuditEvent['kind']]: (event: Extract<AuditEvent, { kind: K }>) => string };

const WORDS: Words = {
  'server-initialised': (e) => `The server made its keys; its trust root has the digest ${e.rootSha256}.`,
  'server-restored': (e) =>
    `The server was restored from a backup of ${new Date(e.backupAt).toISOString()}; the log had ${e.size} entries then, with the root ${e.root}.`,
  'clock-set': (e) =>
    `The server's clock was set ${e.stepMs < 0 ? 'back' : 'forward'} by ${durationWords(Math.abs(e.stepMs))}; deadlines and soak times moved along.`,
  'operator-created': (e) => `${e.by} created operator ${e.name} with the role ${e.role}.`,
  'operator-revoked': (e) => `${e.by} revoked operator ${e.name}.`,
  'product-created': (e) =>
    `${e.by} created product ${e.product} and let ${plural(e.keys.length, 'CI key')} sign for it (${e.keys.join(', ')}).`,
  'bundle-accepted': (e) =>
    `${e.by} published ${e.product}@${e.version} for ${e.compatible}: manifest ${e.manifest}, signed by CI key ${e.keyId}.`,
  'release-staged': (e) => `${e.by} staged ${e.product}@${e.version} in channel ${e.channel}.`,
  'release-checked': (e) =>
    `${e.by} reported that check ${e.check} of ${e.product}@${e.version} ${e.outcome === 'pass' ? 'passed' : 'failed'}${e.link === null ? '' : ` (${e.link})`}.`,
  'release-approved': (e) => `${e.by} approved ${e.product}@${e.version} for channel ${e.channel}${noted(e.note)}.`,
  'release-promoted': (e) =>
    `${e.by} promoted ${e.product}@${e.version} from ${e.from} to ${e.to}${e.approvedBy.length === 0 ? '' : `, approved by ${e.approvedBy.join(', ')}`}.`,
  'release-withdrawn': (e) => `${e.by} withdrew release ${e.product}@${e.version}${noted(e.reason)}.`,
  'enrolment-tokens-created': (e) =>
    `${e.by} made ${plural(e.tokens, 'enrolment token')}${e.device === null ? '' : ` for device ${e.device}`}.`,
  'device-enrolled': (e) =>
    e.replaced === true
      ? `Device ${e.device} (${e.compatible}) enrolled again with a token made for it; its key is now ${e.publicKey}, and the one before counts no more.`
      : e.state === 'accepted'
        ? `Device ${e.device} (${e.compatible}) enrolled with a token and was let in; its key is ${e.publicKey}.`
        : `Device ${e.device} (${e.compatible}) enrolled without a token and waits to be let in; its key is ${e.publicKey}.`,
  'device-accepted': (e) => `${e.by} let device ${e.device} in.`,
  'device-rejected': (e) => `${e.by} shut device ${e.device} out.`,
  'device-tagged': (e) =>
    `${e.by} tagged device ${e.device}: ${Object.entries(e.tags)
      .map(([tag, value]) => (value === '' ? `${tag} removed` : `${tag}=${value}`))
      .join(', ')}.`,
  'cohort-created': (e) => `${e.by} created cohort ${e.cohort}.`,
  'rollout-planned': (e) =>
    `${e.by} planned rollout ${e.rollout} of ${e.product}@${e.version} to ${plural(e.devices, 'device')} in ${plural(e.waveSizes.length, 'wave')} (${e.waveSizes.join(', ')})${e.excluded === 0 ? '' : `, leaving out ${e.excluded}`}${(e.belowFloor ?? 0) === 0 ? '' : ` (${e.belowFloor} of them below their security floor)`}${e.recalls === undefined ? '' : `, to take back rollout ${e.recalls}`}.`,
  'rollout-approved': (e) =>
    `${e.by} approved rollout ${e.rollout}, ${e.approvedBy.length} of ${plural(e.needed, 'approval')}${noted(e.note)}.`,
  'rollout-started': (e) => `Rollout ${e.rollout} started.`,
  'wave-opened': (e) => `Rollout ${e.rollout} opened wave ${e.wave + 1}: ${e.why}.`,
  'rollout-paused': (e) => `${e.by} paused rollout ${e.rollout}${noted(e.note)}.`,
  'rollout-resumed': (e) =>
    `${e.by} resumed rollout ${e.rollout}${e.acknowledged === undefined ? '' : ` after its halt, with ${plural(e.acknowledged, 'failed device')}${(e.neverHeard ?? 0) > 0 ? ` and ${e.neverHeard} never heard` : ''} set aside`}${noted(e.note)}.`,
  'failures-acknowledged': (e) =>
    `${e.by} acknowledged that ${naming(e.devices)} failed in rollout ${e.rollout}: this no longer counts.`,
  'rollout-halted': (e) => `Rollout ${e.rollout} halted: ${sentenceOfHalt(e.reason)}.`,
  'rollout-aborted': (e) => `${e.by} aborted rollout ${e.rollout}${noted(e.note)}.`,
  'rollout-recalled': (e) =>
    `${e.by === BY_SERVER ? `Rollout ${e.rollout} was recalled as its policy says` : `${e.by} recalled rollout ${e.rollout}`}: its devices go back to ${e.to ?? 'what each ran before'}${noted(e.note)}.`,
  'recall-joined': (e) =>
    `Rollout ${e.rollout}: ${naming(e.devices)} joined, to go back like the others of rollout ${e.recalls}.`,
  'recall-stays': (e) =>
    `Rollout ${e.rollout} was recalled, but ${naming(e.devices)} cannot go back: ${STAYS[e.reason]}.`,
  'rollout-activated': (e) =>
    `${e.by} let the devices of rollout ${e.rollout} activate the release; ${plural(e.installed, 'device')} had installed it${noted(e.note)}.`,
  'rollout-completed': (e) => `Rollout ${e.rollout} completed: every device is decided.`,
  'decisions-pruned': (e) =>
    `Rollout ${e.rollout} is long over: ${e.decisions === 1 ? 'its first decision was' : `its first ${e.decisions} decisions were`} pruned, up to the one with the digest ${e.newest}.`,
  offered: (e) => `Rollout ${e.rollout}, wave ${e.wave + 1}: offered to ${naming(e.devices)}.`,
  withdrawn: (e) => `Rollout ${e.rollout}: the offer to ${naming(e.devices)} was withdrawn${noted(e.reason)}.`,
  'rollout-joined': (e) =>
    `Rollout ${e.rollout}, wave ${e.wave + 1}: ${naming(e.devices)} came to match its cohorts and joined.`,
  'key-shared': (e) => `Two devices use the key of ${e.device}; it is offered nothing meanwhile.`,
  'device-drifted': (e) =>
    `Device ${e.device} runs ${e.running}, which no one told it to run; it should run ${e.expected}.`,
  'drift-ended': (e) =>
    e.deployment === null
      ? `Device ${e.device} drifts no more: it runs ${e.running}, as it should.`
      : `Device ${e.device} drifts no more: it runs ${e.running}, and is busy with deployment ${e.deployment}.`,
  'drift-adopted': (e) =>
    `${e.by} adopted what device ${e.device} runs (${e.running}) as what it should run${noted(e.note)}.`,
  'taken-over': (e) => `Rollout ${e.for} comes first and took over ${naming(e.devices)} from rollout ${e.rollout}.`,
  replanned: (e) =>
    `Rollout ${e.rollout}: ${naming(e.devices)} will be offered the release again, after the halt that withdrew the offer.`,
  skipped: (e) => `Rollout ${e.rollout}: skipped ${naming(e.devices)}, which ran the release already.`,
  overdue: (e) =>
    e.class === 'silent'
      ? `Rollout ${e.rollout}: ${naming(e.devices)} took the offer up, fell silent in ${e.reached}, and the deadline passed; this counts as failed.`
      : e.class === 'stuck'
        ? `Rollout ${e.rollout}: ${naming(e.devices)} took the offer up, and got stuck in ${e.reached} until the deadline passed, though connected and heard; this counts as failed.`
        : `Rollout ${e.rollout}: ${naming(e.devices)} never took the offer up in time; this counts neither as healthy nor as failed.`,
  'deployment-moved': (e) =>
    `Device ${e.device} moved from ${e.from} to ${e.to} in rollout ${e.rollout}${errorWords(e)}.`,
  'retry-planned': (e) =>
    `Device ${e.device} could not take up the offer of rollout ${e.rollout}${errorWords(e)}; it gets another after its attempt ${e.ended}${e.notBefore === null ? '' : `, not before ${new Date(e.notBefore).toISOString()}`}.`,
  regressed: (e) => `Device ${e.device}, which had committed in rollout ${e.rollout}, counts as ${e.to} now: ${e.why}.`,
  receipt: (e) => `Device ${e.device} signed its receipt for deployment ${e.deployment}.`,
  'receipt-refused': (e) => `A receipt of device ${e.device} was refused${noted(e.why)}.`,
};

/** The event as one sentence for people. */
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- `Words` pairs each kind with its own event
export const sentenceOf = (event: AuditEvent): string => (WORDS[event.kind] as (event: AuditEvent) => string)(event);
