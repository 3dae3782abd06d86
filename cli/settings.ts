/**
 * The two programs that `sluice` launches take every setting of theirs as a flag; their own schema checks the values.
 */
import type { Command } from 'commander';

/**
 * Adds `--<flag> <value>` for each, saying its name in the environment; those that are typed often may have a shorter
 * name too.
 */
export const addSettings = <S extends string>(
  command: Command,
  settings: readonly S[],
  names: { flag: (setting: S) => string; environment: (setting: S) => string },
  shorter: Partial<Record<S, string>> = {},
): void => {
  for (const setting of settings) {
    const short = shorter[setting] === undefined ? '' : `--${shorter[setting]}, `;
    command.option(`${short}--${names.flag(setting)} <value>`, `also ${names.environment(setting)}`);
  }
};

/** Those that were given, by flag name. */
export const givenSettings = (command: Command, flags: string[]): Record<string, string> => {
  const options: Record<string, unknown> = command.opts();
  const given: Record<string, string> = {};
  for (const flag of flags) {
    const value = options[flag.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase())];
    if (typeof value === 'string') given[flag] = value;
  }
  return given;
};
