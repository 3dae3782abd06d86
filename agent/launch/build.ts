/**
 * `npm run build:agent [-- --executable]`: the agent as one JavaScript file, and as a program that has Node in it. The
 * program is a copy of the Node that runs this, with the file, its compiled form and the flags (`NODE_FLAGS`) in a note
 * that Node looks for in itself.
 */
import { execFile } from 'node:child_process';
import { chmod, copyFile, mkdtemp, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { NODE_FLAGS } from '../process/node-flags.ts';

const run = promisify(execFile);
const root = join(import.meta.dirname, '../..');
const resolve = createRequire(import.meta.url).resolve;
/** What Node's documentation asks for; not a secret. */
const FUSE = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2';

/** `file` must end with `.cjs`. */
const buildScript = async (file: string): Promise<void> => {
  const rolldown = join(root, 'node_modules', 'rolldown', 'bin', 'cli.mjs');
  const env = { ...process.env, SLUICE_AGENT_FILE: file };
  await run(process.execPath, [rolldown, '-c', 'rolldown.config.ts'], { cwd: root, env });
};

const buildExecutable = async (script: string, file: string): Promise<void> => {
  const work = await mkdtemp(join(tmpdir(), 'sluice-executable-'));
  try {
    const [config, blob, program] = ['sea.json', 'agent.blob', 'agent'].map((name) => join(work, name));
    const settings = {
      main: script,
      output: blob,
      disableExperimentalSEAWarning: true,
      useCodeCache: true,
      execArgv: NODE_FLAGS,
      execArgvExtension: 'none',
    };
    await writeFile(config!, JSON.stringify(settings));
    // With the flags: compiled code is for those that it was compiled with.
    await run(process.execPath, [...NODE_FLAGS, '--experimental-sea-config', config!]);
    await copyFile(process.execPath, program!);
    await run(process.execPath, [
      resolve('postject/dist/cli.js'),
      program!,
      'NODE_SEA_BLOB',
      blob!,
      '--sentinel-fuse',
      FUSE,
    ]);
    await chmod(program!, 0o755);
    // A running one is replaced, not written over.
    await copyFile(program!, `${file}.new`);
    await rename(`${file}.new`, file);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
};

const startMs = async (command: string[]): Promise<number> => {
  const began = performance.now();
  await run(command[0]!, [...command.slice(1), '--version']);
  return Math.round(performance.now() - began);
};

const tell = async (file: string, command: string[]): Promise<void> => {
  const times = [await startMs(command), await startMs(command), await startMs(command)];
  const megabytes = (await stat(file)).size / 1e6;
  process.stdout.write(`${file}: ${megabytes.toFixed(1)} MB, says its version in ${Math.min(...times)} ms\n`);
};

const { values } = parseArgs({ options: { executable: { type: 'boolean', default: false }, out: { type: 'string' } } });
const script = join(values.out ?? join(root, 'dist'), 'sluice-agent.cjs');
await buildScript(script);
await tell(script, [process.execPath, ...NODE_FLAGS, script]);
if (values.executable) {
  const program = join(values.out ?? join(root, 'dist'), 'sluice-agent');
  await buildExecutable(script, program);
  await tell(program, [program]);
}
