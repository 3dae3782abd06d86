/** What an installer's exit codes and answers mean. docs/delegate.md has the tables; a test holds the two together. */
import { z } from 'zod';
import type { DeviceErrorCode } from '#shared/deployment.ts';
import { Sha256 } from '#shared/ids.ts';
import type { InstallerEnd } from './run-installer.ts';

export const VERBS = ['inspect', 'prepare', 'install', 'verify', 'activate', 'boot', 'commit', 'revert'] as const;
export type Verb = (typeof VERBS)[number];

/** Of sysexits.h. Anything else that is not 0 is a failure of the verb, see `FAILURES`. */
export const EXIT_CODES: Record<number, DeviceErrorCode | 'later' | 'unknown-verb'> = {
  64: 'unknown-verb', // EX_USAGE
  65: 'PRECONDITION', // EX_DATAERR
  73: 'NO_SPACE', // EX_CANTCREAT
  74: 'WRITE_FAILED', // EX_IOERR
  75: 'later', // EX_TEMPFAIL
  78: 'INCOMPATIBLE_HARDWARE', // EX_CONFIG
};

/** What it means when a verb fails with no better code. */
export const FAILURES: Record<Verb, DeviceErrorCode> = {
  inspect: 'PRECONDITION',
  prepare: 'PRECONDITION',
  install: 'WRITE_FAILED',
  verify: 'WRITE_VERIFY',
  activate: 'WRITE_FAILED',
  boot: 'TRIAL_CRASHED',
  commit: 'WRITE_FAILED',
  revert: 'WRITE_FAILED',
};
/** Without these there is nothing to update. For the others "unknown verb" means that there is nothing to do. */
const NEEDED: ReadonlySet<Verb> = new Set(['install', 'boot']);

export type VerbEnd =
  | { ok: true; known: boolean; answer: string }
  | { ok: false; code: DeviceErrorCode; message: string; later: boolean };

export const meaningOf = (verb: Verb, { exitCode, answer, said, why }: InstallerEnd): VerbEnd => {
  if (exitCode === 0) return { ok: true, known: true, answer };
  const meaning = exitCode === null ? undefined : EXIT_CODES[exitCode];
  if (meaning === 'unknown-verb' && !NEEDED.has(verb)) return { ok: true, known: false, answer: '' };
  const code = meaning === undefined || meaning === 'later' || meaning === 'unknown-verb' ? FAILURES[verb] : meaning;
  const message = `${verb}: ${why}${said === '' ? '' : `: ${said.slice(-500)}`}`;
  return { ok: false, code, message, later: meaning === 'later' };
};

const Slot = z.enum(['a', 'b']);
/** What `inspect` answers, one JSON object. What an installer does not say the agent keeps itself. */
export const Told = z.object({
  running: Slot.nullable().optional(),
  active: Slot.nullable().optional(),
  trial: z
    .object({ slot: Slot, triesLeft: z.number().int().min(0).max(100).optional() })
    .nullable()
    .optional(),
  /** The SHA-256 of the artifact that a slot holds; null: none that could run. */
  contents: z.object({ a: Sha256.nullable().optional(), b: Sha256.nullable().optional() }).optional(),
});
export type Told = z.infer<typeof Told>;

/** Undefined for anything that is not such an object. Lines of progress before it do no harm. */
export const parseTold = (answer: string): Told | undefined => {
  const start = answer.search(/^\s*\{/m);
  if (start === -1) return undefined;
  try {
    return Told.safeParse(JSON.parse(answer.slice(start))).data;
  } catch {
    return undefined;
  }
};
