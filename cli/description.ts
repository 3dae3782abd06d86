/**
 * `bundle.yaml`: what `sluice bundle create` makes bundles from, as a file and as flags. Paths are relative to the
 * file.
 */
import { mkdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { z } from 'zod';
import { type ArtifactSource, type AttachmentSource, type CreatedBundle, createBundle } from '#shared/create-bundle.ts';
import { Compatible, Id } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import { CliFailure, usageFailure, valueOf } from './failure.ts';
import { readMapping } from './mapping-file.ts';
import { withoutLeftovers } from './running.ts';

const Path = z.string().min(1).max(4096);

const ArtifactFile = z.union([
  /**
   * A folder becomes a deterministic tar, unpacked at the root of the slot. Uncompressed unless told: see
   * compressed-inside.ts.
   */
  z.strictObject({ name: Id, folder: Path, compression: z.enum(['none', 'gzip', 'zstd']).default('none') }),
  /** A file is placed at `path` in the slot. */
  z.strictObject({ name: Id, file: Path, path: z.string().min(1).max(255), executable: z.boolean().default(false) }),
  /** A raw image, which fills a slot that boots the whole device; alone in its bundle. */
  z.strictObject({ name: Id, image: Path }),
  /** What an installer on the device takes: a RAUC bundle, a .swu, anything; alone in its bundle. */
  z.strictObject({ name: Id, delegate: Path, handler: Id }),
  /** A tar that exists already, unpacked at the root of the slot. */
  z.strictObject({ name: Id, tree: Path, compression: z.enum(['none', 'gzip', 'zstd']) }),
]);
const AttachmentFile = z.strictObject({
  kind: z.enum(['sbom', 'provenance', 'notes', 'other']),
  file: Path,
  name: z.string().max(128).optional(),
});

const { format: _format, artifacts: _artifacts, attachments: _attachments, ...manifestFields } = Manifest.shape;
/** The manifest's own fields, but several compatibles (one bundle each), and files instead of digests. */
export const Description = z.strictObject({
  ...manifestFields,
  securityCounter: manifestFields.securityCounter.default(0),
  compatible: z.union([Compatible.transform((one) => [one]), z.array(Compatible).min(1).max(16)]),
  artifacts: z.array(ArtifactFile).min(1).max(64),
  notesFile: Path.optional(),
  attachments: z.array(AttachmentFile).max(16).default([]),
});
export type Description = z.output<typeof Description>;

/** The plain content of a description file, without any check but its size and syntax. */
export const readDescription = (file: string): Promise<Record<string, unknown>> =>
  readMapping(file, 'product: gateway');

export const parseDescription = (content: Record<string, unknown>, origin: string): Description => {
  const parsed = Description.safeParse(content);
  if (parsed.success) return parsed.data;
  const issues = parsed.error.issues.slice(0, 20).map((issue) => `  ${issue.path.join('.')}: ${issue.message}`);
  throw usageFailure([`${origin} does not describe a bundle:`, ...issues].join('\n'));
};

const bundleName = (description: Description, compatible: string): string =>
  `${description.product}-${description.version}-${compatible}.sluice`;

export type CreateOptions = {
  /** What relative paths start from. */
  folder: string;
  /**
   * A file, or a folder (existing, or named with a slash at its end) that gets
   * `<product>-<version>-<compatible>.sluice`.
   */
  out: string;
  onProgress?: (done: number, total: number) => void;
};

/** One bundle for each compatible. */
export const createBundles = async (description: Description, options: CreateOptions): Promise<CreatedBundle[]> => {
  const { compatible: compatibles, artifacts, attachments, notesFile, ...fields } = description;
  const intoFolder = options.out.endsWith('/') || (await isFolder(options.out));
  if (compatibles.length > 1 && !intoFolder) {
    throw usageFailure(
      `there are ${compatibles.length} bundles to make: --out must be a folder, such as ${options.out}/`,
    );
  }
  await mkdir(intoFolder ? options.out : dirname(resolve(options.out)), { recursive: true });
  const at = (path: string): string => resolve(options.folder, path);
  const notes = notesFile === undefined ? fields.notes : await readNotes(at(notesFile));
  const created: CreatedBundle[] = [];
  for (const compatible of compatibles) {
    const result = await withoutLeftovers((temporary) =>
      createBundle({
        manifest: { ...fields, compatible, notes },
        artifacts: artifacts.map((artifact) => artifactSource(artifact, at)),
        attachments: attachments.map(
          ({ kind, file, name }): AttachmentSource => ({ kind, file: at(file), name: name ?? basename(file) }),
        ),
        out: intoFolder ? join(options.out, bundleName(description, compatible)) : options.out,
        ...(options.onProgress === undefined ? {} : { onProgress: options.onProgress }),
        temporary,
      }),
    );
    created.push(valueOf(result, `No bundle was made for ${compatible}`));
  }
  return created;
};

const artifactSource = (artifact: z.output<typeof ArtifactFile>, at: (path: string) => string): ArtifactSource => {
  const { name } = artifact;
  if ('folder' in artifact) return { name, folder: at(artifact.folder), compression: artifact.compression };
  if ('image' in artifact) return { name, file: at(artifact.image), install: { kind: 'image' } };
  if ('delegate' in artifact)
    return { name, file: at(artifact.delegate), install: { kind: 'delegate', handler: artifact.handler } };
  if ('tree' in artifact)
    return { name, file: at(artifact.tree), install: { kind: 'tree', compression: artifact.compression } };
  return {
    name,
    file: at(artifact.file),
    install: { kind: 'file', path: artifact.path, executable: artifact.executable },
  };
};

const isFolder = async (path: string): Promise<boolean> =>
  (await stat(path).catch(() => undefined))?.isDirectory() ?? false;

const readNotes = async (file: string): Promise<string> => {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new CliFailure(`the release notes ${file} cannot be read`, { cause: error });
  }
};
