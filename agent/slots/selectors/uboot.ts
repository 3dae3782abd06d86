/**
 * U-Boot's redundant environment as a store, by `fw_printenv` and `fw_setenv` of libubootenv. One `fw_setenv -s` writes
 * all of a change into the older copy: a torn one is no copy, and the previous wins (faults 10). With both torn nothing
 * is written (faults 11), for `fw_setenv` would begin an environment of its own.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mender } from './mender.ts';
import { RAUC } from './rauc.ts';
import { runTool } from './run-tool.ts';
import { type FitnessProblem, type ImageSelector, SelectorFailed } from './selector.ts';
import { readEnvironment } from './uboot-environment.ts';
import {
  type Changes,
  openVariableSelector,
  type VariableStore,
  type Variables,
  type VariablesRead,
} from './variables.ts';

const NEITHER = 'neither copy of the U-Boot environment is whole';

const parseLines = (output: string): Variables => {
  const variables: Record<string, string> = {};
  for (const line of output.split('\n')) {
    const equals = line.indexOf('=');
    if (equals > 0) variables[line.slice(0, equals)] = line.slice(equals + 1);
  }
  return variables;
};

const openUbootStore = (config: string): VariableStore => {
  const read = async (): Promise<VariablesRead> => {
    const environment = await readEnvironment(config);
    if (typeof environment === 'string') return { state: 'damaged', why: environment };
    const { copies, newest } = environment;
    if (newest === null) return { state: 'damaged', why: NEITHER };
    try {
      const shown = parseLines(await runTool('fw_printenv', ['-c', config]));
      return { state: 'read', newest: shown, older: copies[newest === 0 ? 1 : 0] };
    } catch (error) {
      if (error instanceof SelectorFailed) return { state: 'damaged', why: error.message };
      throw error;
    }
  };
  const write = async (changes: Changes): Promise<void> => {
    const before = await read();
    if (before.state === 'damaged') throw new SelectorFailed(before.why);
    const folder = await mkdtemp(join(tmpdir(), 'sluice-fw-'));
    try {
      const script = join(folder, 'changes');
      // A name with nothing after it is deleted.
      await writeFile(
        script,
        Object.entries(changes)
          .map(([name, value]) => `${name}=${value}\n`)
          .join(''),
      );
      await runTool('fw_setenv', ['-c', config, '-s', script]);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
    const after = await read();
    const wrong = Object.entries(changes).find(
      ([name, value]) => after.state === 'damaged' || (after.newest[name] ?? '') !== value,
    );
    if (wrong !== undefined) throw new SelectorFailed(`fw_setenv did not set ${wrong[0]}: is it that of libubootenv?`);
  };
  return {
    read,
    write,
    settle: async () => {
      const found = await read();
      if (found.state === 'damaged') throw new SelectorFailed(found.why);
      // Any write goes to the older copy, with everything that the newest has.
      const [name, value] = Object.entries(found.newest)[0] ?? ['sluice_trial', ''];
      await write({ [name]: value });
    },
    check: () => checkEnvironment(config),
  };
};

const checkEnvironment = async (config: string): Promise<FitnessProblem[]> => {
  const environment = await readEnvironment(config);
  if (typeof environment === 'string') return [{ grave: true, sentence: environment }];
  if (environment.newest === null) return [{ grave: true, sentence: NEITHER }];
  const problems: FitnessProblem[] = [];
  if (environment.copies.includes(null))
    problems.push({
      grave: false,
      sentence: 'one of the two copies of the U-Boot environment is damaged; the next write replaces it',
    });
  for (const tool of ['fw_printenv', 'fw_setenv']) {
    const failure = await runTool(tool, ['--version']).then(
      () => undefined,
      (error: unknown) => (error instanceof Error ? error.message : String(error)),
    );
    if (failure !== undefined) problems.push({ grave: true, sentence: failure });
  }
  return problems;
};

export const openUbootSelector = (options: {
  config: string;
  convention: 'rauc' | 'mender';
  partitions: { a: number; b: number };
}): ImageSelector =>
  openVariableSelector(
    openUbootStore(options.config),
    options.convention === 'rauc' ? RAUC : mender(options.partitions),
  );
