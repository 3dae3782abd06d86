/** Runs one command to its end: a health check or a hook. Bounded in time and output, and its whole process group ends with it. */

export type CommandOptions = {
  command: string[];
  folder: string;
  environment: Record<string, string>;
  timeoutMs: number;
  signal?: AbortSignal;
};

/** `output` is the end of what it wrote, at most 4 KiB. `ok` is exit code 0. */
export type CommandResult =
  | { ok: true; output: string }
  | { ok: false; message: string; exitCode: number | null; output: string };

export const runCommand = async (_options: CommandOptions): Promise<CommandResult> => {
  throw new Error('not built yet');
};
