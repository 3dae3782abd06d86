/** Every refusal that crosses a socket: an RFC 9457 problem with a code from this one table. */
import { z } from 'zod';

/** code -> HTTP status and title. `detail` says what is wrong here, and what to do about it. */
export const PROBLEMS = {
  'invalid-request': [400, 'The request is not of the expected form'],
  unauthenticated: [401, 'Who you are is not known'],
  'clock-skew': [401, 'The device clock is too far from the server clock'],
  forbidden: [403, 'You may not do this'],
  'not-found': [404, 'There is no such thing'],
  conflict: [409, 'That is not possible in the present state'],
  'requirements-unmet': [409, 'The channel requires more of this release'],
  'already-exists': [409, 'That exists already'],
  'metadata-version-conflict': [409, 'Someone else published in between: fetch the delegation again, sign again'],
  'too-slow': [408, 'The body came too slowly'],
  'digest-mismatch': [422, 'The bytes received are not the bytes announced'],
  'chunks-mismatch': [422, 'The chunk index that the manifest names is not that of the bytes'],
  'too-large': [413, 'That is larger than allowed'],
  'bundle-invalid': [422, 'The bundle is not well formed'],
  'manifest-invalid': [422, 'The manifest is not well formed'],
  'signature-invalid': [422, 'The signature does not verify with a key delegated for this product'],
  'path-not-delegated': [422, 'The key may not sign for this path'],
  'version-taken': [409, 'This version was accepted already; versions are immutable'],
  'security-counter-too-low': [422, 'The security counter is below that of an earlier version'],
  'selector-invalid': [422, 'The selector cannot be understood'],
  'token-invalid': [403, 'The enrolment token is unknown, used, or expired'],
  'rate-limited': [429, 'Too many requests'],
  'insufficient-storage': [507, 'There is not enough space left on the server'],
  internal: [500, 'The server failed; its log says more'],
  unavailable: [503, 'The server is stopping or starting'],
} as const satisfies Record<string, readonly [number, string]>;

export type ProblemCode = keyof typeof PROBLEMS;
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- Object.keys forgets what the keys are
export const PROBLEM_CODES = Object.keys(PROBLEMS) as [ProblemCode, ...ProblemCode[]];

/** The body of every error answer, `application/problem+json` (RFC 9457, section 3). */
export const Problem = z.object({
  type: z.string().describe('`urn:sluice:problem:<code>`'),
  code: z.enum(PROBLEM_CODES),
  title: z.string(),
  status: z.number().int(),
  detail: z.string().optional(),
  /** For `invalid-request`: every field that is wrong. */
  issues: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
});
export type Problem = z.infer<typeof Problem>;

/** An expected refusal as a value: what a flow returns instead of throwing. */
export type Refusal = { ok: false; code: ProblemCode; detail: string };
export const refuse = (code: ProblemCode, detail: string): Refusal => ({ ok: false, code, detail });
export type Result<T> = { ok: true; value: T } | Refusal;
export const accept = <T>(value: T): { ok: true; value: T } => ({ ok: true, value });

/** Of each end: of a path, the file is told by its last part. */
const WORD_CHARS_KEPT = 50;
/**
 * What someone sent is repeated to them in errors, but not at any length: a word longer than any name or address of
 * ours is cut.
 */
export const withoutLongWords = (text: string): string =>
  text.replace(
    /\S{200,}/g,
    (word) => `${word.slice(0, WORD_CHARS_KEPT)}...${word.slice(-WORD_CHARS_KEPT)} (${word.length} characters)`,
  );

export const toProblem = (code: ProblemCode, detail?: string, issues?: Problem['issues']): Problem => ({
  type: `urn:sluice:problem:${code}`,
  code,
  title: PROBLEMS[code][1],
  status: PROBLEMS[code][0],
  ...(detail === undefined ? {} : { detail: withoutLongWords(detail) }),
  ...(issues === undefined
    ? {}
    : {
        issues: issues.map(({ path, message }) => ({
          path: withoutLongWords(path),
          message: withoutLongWords(message),
        })),
      }),
});
