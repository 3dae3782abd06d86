/** How a command ends when it does not succeed: an exit code that scripts can rely on, and words for people. */
import type { Problem, Refusal } from '#shared/problems.ts';

/** Documented in docs/cli.md and in `sluice --help`. */
export const EXIT = {
  /** Done. `rollout watch`: completed. */
  ok: 0,
  /** The server refused, something failed, or a proof does not hold. */
  failed: 1,
  /** The command line is wrong. */
  usage: 2,
  /** The server cannot be reached, or does not know who is asking. */
  unreachable: 3,
  /** `rollout watch`: the rollout halted. */
  halted: 4,
  /** `rollout watch`: the rollout was aborted. */
  aborted: 5,
} as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** What a command throws to end with a message and without a stack trace. */
export class CliFailure extends Error {
  readonly exitCode: ExitCode;
  /** The server's own words, when it was the server that refused. */
  readonly problem: Problem | undefined;
  constructor(message: string, more: { exitCode?: ExitCode; problem?: Problem; cause?: unknown } = {}) {
    super(message, { cause: more.cause });
    this.exitCode = more.exitCode ?? EXIT.failed;
    this.problem = more.problem;
  }
}

export const usageFailure = (message: string): CliFailure => new CliFailure(message, { exitCode: EXIT.usage });

/** A server's refusal in words: title, detail, and every field that is wrong. */
export const problemFailure = (problem: Problem): CliFailure => {
  const lines = [problem.title];
  if (problem.detail !== undefined) lines.push(`  ${problem.detail}`);
  const issues = (problem.issues ?? []).map(({ path, message }) => `${path === '' ? '' : `${path}: `}${message}`);
  // A single one is the detail already.
  for (const issue of issues) if (issue !== problem.detail) lines.push(`  ${issue}`);
  const exitCode = problem.status === 401 ? EXIT.unreachable : EXIT.failed;
  if (problem.code === 'unauthenticated') lines.push('  Log in with `sluice login`, or set SLUICE_TOKEN.');
  return new CliFailure(lines.join('\n'), { exitCode, problem });
};

/** The value of a local result, or the refusal as a failure. */
export const valueOf = <T>(result: { ok: true; value: T } | Refusal, what: string): T => {
  if (result.ok) return result.value;
  throw new CliFailure(`${what}: ${result.detail} (${result.code})`);
};
