/** Files in which people write settings: a mapping in YAML or JSON. */
import { readFile, stat } from 'node:fs/promises';
import { z } from 'zod';
import { usageFailure } from './failure.ts';

const BYTES_MAX = 1024 * 1024;
const Mapping = z.record(z.string(), z.unknown());

/** Checked for size and syntax only; `example` shows who wrote something else what is meant. */
export const readMapping = async (file: string, example: string): Promise<Record<string, unknown>> => {
  const there = await stat(file).catch(() => undefined);
  if (there === undefined || !there.isFile()) throw usageFailure(`${file} cannot be read`);
  if (there.size > BYTES_MAX) throw usageFailure(`${file} is larger than 1 MiB`);
  // Most commands read no such file, and start a tenth sooner without its parser.
  const { parse } = await import('yaml');
  try {
    const content = Mapping.safeParse(parse(await readFile(file, 'utf8'), { maxAliasCount: 100 }));
    if (content.success) return content.data;
  } catch (error) {
    throw usageFailure(`${file}: ${error instanceof Error ? error.message : String(error)}`);
  }
  throw usageFailure(`${file} must hold a mapping such as "${example}"`);
};
