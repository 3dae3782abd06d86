/**
 * What a device's application has in its folder of secrets, so that it can be taken out of what leaves the device. What
 * could not be is said.
 */
import { constants, open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { AgentConfig } from '../config/config.ts';
import { errorCode } from '../process/system-error.ts';

const FILES_MAX = 64;
const BYTES_MAX = 16_384;
const BYTES_TOGETHER_MAX = 131_072;
const DEPTH_MAX = 8;

/** `refusal`: why `texts` is not all of it, in a sentence. */
export type Secrets = { texts: string[]; refusal: string | null };

export const secretsFolder = ({ dataDir, application }: Pick<AgentConfig, 'dataDir' | 'application'>): string =>
  application.secretsDir ?? join(dataDir, 'secrets');

/** All files below the folder, also those that links lead to. */
export const readSecrets = async (dir: string): Promise<Secrets> => {
  const texts: string[] = [];
  let refusal: string | null = null;
  let files = 0;
  let bytes = 0;
  const refuse = (path: string, why: string): void => {
    refusal ??= `${path} ${why}: it could not be kept out of logs`;
  };
  const read = async (path: string): Promise<void> => {
    files += 1;
    if (files > FILES_MAX) return refuse(dir, `has more than ${FILES_MAX} files`);
    const text = await readBounded(path, BYTES_MAX);
    if (text === undefined) return refuse(path, `has more than ${BYTES_MAX} bytes`);
    bytes += Buffer.byteLength(text);
    if (bytes > BYTES_TOGETHER_MAX) return refuse(dir, `has more than ${BYTES_TOGETHER_MAX} bytes`);
    texts.push(text.trim());
  };
  const visit = async (folder: string, depth: number): Promise<void> => {
    for (const name of await readdir(folder)) {
      const path = join(folder, name);
      try {
        const isFolder = (await stat(path)).isDirectory();
        if (!isFolder) await read(path);
        else if (depth < DEPTH_MAX) await visit(path, depth + 1);
        else refuse(path, `is more than ${DEPTH_MAX} folders deep`);
      } catch (error) {
        refuse(path, `cannot be read (${errorCode(error)})`);
      }
      if (refusal !== null) return;
    }
  };
  await visit(dir, 1).catch((error: unknown) => refuse(dir, `cannot be read (${errorCode(error)})`));
  return { texts, refusal };
};

/** Undefined when it is longer. Throws for what is no file: a pipe could be waited for without end. */
export const readBounded = async (file: string, bytesMax: number): Promise<string | undefined> => {
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    if (!(await handle.stat()).isFile()) throw Object.assign(new Error(`${file} is no file`), { code: 'not a file' });
    const buffer = Buffer.alloc(bytesMax + 1);
    let bytes = 0;
    for (;;) {
      const { bytesRead } = await handle.read(buffer, bytes, buffer.length - bytes, bytes);
      bytes += bytesRead;
      if (bytes > bytesMax) return undefined;
      if (bytesRead === 0) return buffer.toString('utf8', 0, bytes);
    }
  } finally {
    await handle.close();
  }
};
