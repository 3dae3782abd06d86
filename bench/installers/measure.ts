/** How a program is run and measured, no matter who has written it. */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, existsSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Payload } from './payload.ts';

/** `rssMB`: resident memory at the most; null where nothing tells. */
export type Measured = { ms: number; rssMB: number | null };

/** One way to install a payload into a slot. */
export type Installer = {
  name: string;
  /** Why it cannot be measured here. */
  lacks: string | undefined;
  /**
   * What is done once: the payload in the installer's own format, in an empty folder. The slot is an empty file of
   * `slotBytes`.
   */
  prepare(payload: Payload, folder: string, slot: string): Promise<Install>;
};
/** Resolves when the slot has been written durably. As often as wanted, each time into an empty slot. */
export type Install = () => Promise<Measured>;

const PATHS = `${process.env['PATH']}:/usr/sbin:/sbin`;
const TIME = '/usr/bin/time';

/** Of these programs, those that are not there. */
export const lacking = (programs: string[]): string | undefined => {
  const isThere = (program: string): boolean => PATHS.split(':').some((folder) => existsSync(join(folder, program)));
  const absent = programs.filter((program) => !isThere(program));
  return absent.length === 0 ? undefined : `${absent.join(' and ')} not installed`;
};

const environment = (more: Record<string, string>): NodeJS.ProcessEnv => ({ ...process.env, PATH: PATHS, ...more });

/** What it printed; throws with it when it fails. */
export const run = (program: string, words: string[], cwd: string, more: Record<string, string> = {}): string => {
  const done = spawnSync(program, words, { cwd, encoding: 'utf8', env: environment(more), maxBuffer: 2 ** 26 });
  if (done.status === 0) return done.stdout;
  const said = `${done.stdout}\n${done.stderr}`.trim().split('\n').slice(-12).join('\n');
  throw new Error(`${program} ${words[0] ?? ''} failed (${done.status ?? done.error?.message}):\n${said}`);
};

/** From its start to its end, with the memory of the largest of its processes. */
export const measure = async (
  program: string,
  words: string[],
  cwd: string,
  more: Record<string, string> = {},
): Promise<Measured> => {
  const timed = existsSync(TIME);
  const report = join(cwd, 'max-rss');
  const command = timed ? [TIME, '-f', '%M', '-o', report, program, ...words] : [program, ...words];
  const began = performance.now();
  const child = spawn(command[0]!, command.slice(1), {
    cwd,
    env: environment(more),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-4_000);
    });
  const exited = once(child, 'exit').then(([code]) => ({ code: code as number | null, ms: performance.now() - began }));
  const [{ code, ms }] = await Promise.all([exited, once(child, 'close')]);
  if (code !== 0) throw new Error(`${program} failed (${code}):\n${said}`);
  return {
    ms,
    rssMB: timed ? (Number((await readFile(report, 'utf8')).trim().split('\n').at(-1)) * 1.024) / 1e3 : null,
  };
};

/** From `/proc`, in MB: `VmHWM` or `VmRSS`. */
export const memoryOf = async (pid: number, what: 'VmHWM' | 'VmRSS'): Promise<number> => {
  const kilobytes = new RegExp(`^${what}:\\s+(\\d+) kB$`, 'm').exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
  if (kilobytes === undefined) throw new Error(`there is no ${what} of ${pid}`);
  return (Number(kilobytes) * 1024) / 1e6;
};

/** An empty slot, and nothing that is still to be written to the disk. */
export const makeSlot = async (file: string, bytes: number): Promise<void> => {
  const handle = await open(file, 'w');
  await handle.truncate(bytes);
  await handle.close();
  spawnSync('sync');
};

/** SHA-256, in hexadecimal. */
export const digestOf = async (source: AsyncIterable<Buffer>): Promise<string> => {
  const hash = createHash('sha256');
  for await (const piece of source) hash.update(piece);
  return hash.digest('hex');
};

/** Throws when the slot does not hold the payload. */
export const insist = async (slot: string, { name, bytes, sha256 }: Payload): Promise<void> => {
  if ((await digestOf(createReadStream(slot, { end: bytes - 1, highWaterMark: 2 ** 20 }))) !== sha256)
    throw new Error(`${slot} does not hold ${name}`);
};
