/**
 * The command line of a script: `--help` says how it is used (exit code 0), what is wrong is said in one line (exit
 * code 2), and then nothing else happens.
 */
import { type ParseArgsConfig, parseArgs } from 'node:util';

export const refuseArguments: (sentence: string) => never = (sentence) => {
  console.error(sentence);
  process.exit(2);
};

/** As parseArgs, with `--help` beside what the script has. */
export const readArguments = <T extends ParseArgsConfig>(usage: string, config: T): ReturnType<typeof parseArgs<T>> => {
  const options = { ...config.options, help: { type: 'boolean', short: 'h' } } as const;
  try {
    const read = parseArgs({ ...config, options });
    if ((read.values as { help?: boolean }).help === true) {
      console.log(usage);
      process.exit(0);
    }
    return read as ReturnType<typeof parseArgs<T>>;
  } catch (error) {
    return refuseArguments((error as Error).message.replaceAll('\n', ' '));
  }
};

export const wholeNumber = (name: string, text: string, [least, most]: [number, number]): number => {
  const number = Number(text);
  return Number.isInteger(number) && number >= least && number <= most
    ? number
    : refuseArguments(`${name}: a whole number from ${least} to ${most}, not "${text}"`);
};
