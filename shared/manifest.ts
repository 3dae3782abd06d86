/**
 * The manifest: the small JSON document that is a bundle's TUF target. It pins by SHA-256 everything else that the
 * bundle carries, so that one signature covers all of it.
 */
import { z } from 'zod';
import { Compatible, DurationMs, Id, Sha256, text, Version } from './ids.ts';

export const MANIFEST_BYTES_MAX = 256 * 1024;
const ARTIFACT_BYTES_MAX = 4 * 1024 ** 3;
/** The chunk index of the largest artifact has 9.2 million bytes. */
export const INDEX_BYTES_MAX = 10 * 1024 ** 2;
export const BUNDLE_BYTES_MAX = 4 * 1024 ** 3 + 64 * 1024 ** 2;

/** A relative path inside a slot: no leading slash, no `.` or `..` segment, no backslash. */
const SlotPath = z
  .string()
  .min(1)
  .max(255)
  .regex(/^[A-Za-z0-9._@+ -]+(\/[A-Za-z0-9._@+ -]+)*$/, 'must be a relative path')
  .refine((path) => path.split('/').every((part) => part !== '.' && part !== '..'), 'must not contain . or ..');

const Command = z.array(z.string().min(1).max(4096)).min(1).max(64);

/** How an artifact gets into a slot. */
export const InstallKind = z.discriminatedUnion('kind', [
  /** A tar, unpacked at the root of the slot. */
  z.strictObject({
    kind: z.literal('tree'),
    compression: z.enum(['none', 'gzip', 'zstd']),
    /**
     * What it unpacks to: the bytes of all files, and how many files, folders and links there are. A device refuses
     * more. Absent in bundles of earlier builds.
     */
    unpacked: z
      .strictObject({
        bytes: z
          .number()
          .int()
          .min(0)
          .max(2 ** 44),
        entries: z.number().int().min(0).max(1_000_000),
      })
      .optional(),
  }),
  /** One file, placed at `path`. */
  z.strictObject({
    kind: z.literal('file'),
    path: SlotPath,
    executable: z.boolean().default(false),
    /** Where it is not the usual 0644, or 0755 of what is executable. */
    mode: z
      .string()
      .regex(/^0[4-7][0145][0145]$/, 'must be a mode such as 0600: its owner may read it, and only its owner write')
      .optional(),
  }),
  /**
   * The whole of a slot that boots the device: a raw image, from the first byte of the slot's partition. Stands alone.
   */
  z.strictObject({ kind: z.literal('image') }),
  /**
   * Handed as it is to an installer on the device: `rauc`, `swupdate`, or one of the device's own (docs/delegate.md).
   * Stands alone.
   */
  z.strictObject({ kind: z.literal('delegate'), handler: Id }),
]);
export type InstallKind = z.infer<typeof InstallKind>;

export const Artifact = z.strictObject({
  name: Id,
  bytes: z.number().int().min(0).max(ARTIFACT_BYTES_MAX),
  sha256: Sha256,
  install: InstallKind,
  /**
   * The chunk index of exactly these bytes (transfer/chunk-index.ts): its digest and length. With it a device fetches
   * only the chunks that it lacks; without it the whole artifact, as one object. `sluice bundle create` makes it, and
   * the server holds it against the bytes.
   */
  chunks: z
    .strictObject({ format: z.literal(1), index: Sha256, bytes: z.number().int().min(16).max(INDEX_BYTES_MAX) })
    .optional(),
});
export type Artifact = z.infer<typeof Artifact>;

/**
 * An absolute path, one below the folder in which commands run, or one below the application's data: `{data}/alive`.
 */
const CheckedPath = z.string().min(1).max(1024);
/** What people read instead of "check 2 of 3". */
const named = { name: text(64).min(1).optional() };

/**
 * A check that must pass, repeatedly, before a trial is committed; afterwards it goes on, more slowly. `{port}` is the
 * application's PORT.
 */
export const HealthCheck = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('http'),
    ...named,
    url: z
      .url({ protocol: /^https?$/ })
      .max(1024)
      .or(z.string().regex(/^https?:\/\/[A-Za-z0-9.[\]-]+:\{port\}\/\S{0,900}$/)),
    statusMax: z.number().int().min(200).max(599).default(299),
    timeoutMs: DurationMs.min(1).default(2_000),
  }),
  z.strictObject({
    kind: z.literal('command'),
    ...named,
    command: Command,
    timeoutMs: DurationMs.min(1).default(10_000),
  }),
  /** Someone accepts connections there. */
  z.strictObject({
    kind: z.literal('tcp'),
    ...named,
    host: z.string().min(1).max(253).default('127.0.0.1'),
    port: z.number().int().min(1).max(65_535).or(z.literal('{port}')),
    timeoutMs: DurationMs.min(1).default(2_000),
  }),
  /**
   * A process runs, and has for `upMs` without being started again: the one whose id a file holds, one with this
   * program name (as `ps -o comm` shows it), or, with neither, the application itself.
   */
  z
    .strictObject({
      kind: z.literal('process'),
      ...named,
      program: z.string().min(1).max(64).optional(),
      pidFile: CheckedPath.optional(),
      upMs: DurationMs.default(0),
    })
    .refine(
      ({ program, pidFile }) => program === undefined || pidFile === undefined,
      'give a program or a pidFile, not both',
    ),
  /** The file was modified lately: its writer is alive. */
  z.strictObject({ kind: z.literal('file'), ...named, path: CheckedPath, withinMs: DurationMs.min(1) }),
]);
export type HealthCheck = z.infer<typeof HealthCheck>;

export const HealthPolicy = z.strictObject({
  checks: z.array(HealthCheck).max(16).default([]),
  intervalMs: DurationMs.min(50).default(1_000),
  /** From the first moment that everything is well, how long it must stay so. */
  soakMs: DurationMs.default(10_000),
  /** From the start of the trial; past it the device reverts. */
  deadlineMs: DurationMs.min(100).default(300_000),
  /**
   * What the trial must reach before it may commit. `true`: the server, over MQTT or HTTP. `broker`: over MQTT.
   * `network`: the network at least, so that a server that is down for everyone reverts no one. `false`: nothing.
   */
  serverContact: z
    .boolean()
    .or(z.enum(['network', 'broker']))
    .default(true),
});
export type HealthPolicy = z.infer<typeof HealthPolicy>;

/** `health` runs again and again, as a command check does. docs/agent.md says when each runs, and with what. */
export const HookMoment = z.enum([
  'before-install',
  'after-install',
  'before-activate',
  'health',
  'after-commit',
  'after-revert',
]);
export type HookMoment = z.infer<typeof HookMoment>;

export const Manifest = z
  .strictObject({
    format: z.literal(1),
    product: Id,
    version: Version,
    compatible: Compatible,
    /** Grows when an older version must never run again; devices refuse anything below the highest they committed. */
    securityCounter: z
      .number()
      .int()
      .min(0)
      .max(2 ** 31),
    artifacts: z.array(Artifact).min(1).max(64),
    /** The application that the directories adapter supervises, run inside the slot. */
    run: z
      .strictObject({
        command: Command,
        environment: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,63}$/), z.string().max(4096)).default({}),
      })
      .optional(),
    /**
     * The agent's own file in this slot: a device that runs this release runs that agent (docs/decisions/0010). Without
     * one, the installed agent.
     */
    agent: z.strictObject({ path: SlotPath }).optional(),
    health: HealthPolicy.prefault({}),
    hooks: z
      .array(
        z.strictObject({
          when: HookMoment,
          command: Command,
          timeoutMs: DurationMs.min(1).default(60_000),
        }),
      )
      .max(16)
      .default([]),
    /**
     * What the trial does to the application's data (`SLUICE_DATA`) is undone when it is reverted. The device's
     * configuration may say otherwise.
     */
    data: z
      .strictObject({
        snapshot: z.boolean().default(true),
        /**
         * The most that the snapshot may take; with more the deployment ends with NO_SPACE before anything is
         * activated.
         */
        bytesMax: z.number().int().min(1).optional(),
      })
      .optional(),
    /**
     * Issue keys and commits that this version contains: all of them, not only what is new in it. `sluice change show`
     * finds them.
     */
    changes: z.array(text(128).min(1)).max(2000).default([]),
    notes: text(16_384).default(''),
    /** Files for people and auditors: they travel with the bundle and are kept, but are not installed. */
    attachments: z
      .array(
        z.strictObject({
          kind: z.enum(['sbom', 'provenance', 'notes', 'other']),
          name: z
            .string()
            .regex(/^[A-Za-z0-9._-]{1,128}$/)
            .refine((name) => name !== '.' && name !== '..', 'must be the name of a file'),
          bytes: z
            .number()
            .int()
            .min(0)
            .max(64 * 1024 ** 2),
          sha256: Sha256,
        }),
      )
      .max(16)
      .default([]),
  })
  .superRefine((manifest, context) => {
    const names = [...manifest.artifacts, ...manifest.attachments].map((part) => part.name);
    if (new Set<string>(names).size !== names.length)
      context.addIssue({ code: 'custom', message: 'names must be distinct' });
    const whole = manifest.artifacts.find(({ install }) => install.kind === 'image' || install.kind === 'delegate');
    if (whole !== undefined) {
      const { kind } = whole.install;
      const what = kind === 'image' ? 'an image' : 'what an installer installs';
      if (manifest.artifacts.length !== 1)
        context.addIssue({ code: 'custom', message: `${what} fills its slot alone: no other artifact fits beside it` });
      if (manifest.run !== undefined)
        context.addIssue({ code: 'custom', message: `${what} is booted, not run: it starts its applications itself` });
    }
    const bytes = manifest.artifacts.reduce((sum, artifact) => sum + artifact.bytes, 0);
    if (bytes > ARTIFACT_BYTES_MAX) context.addIssue({ code: 'custom', message: 'artifacts are too large together' });
  });
export type Manifest = z.infer<typeof Manifest>;
