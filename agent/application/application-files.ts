/**
 * What belongs to the application on this device, and no release touches: its data, its secrets, and the variables that
 * the device adds to its environment. docs/agent.md says which wins.
 */
import { chmod, chown, mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { AgentConfig } from '../config/config.ts';
import type { Log } from '../log.ts';
import { asFarAsPossible, errorCode, storageRefusal } from '../process/system-error.ts';
import { ENVIRONMENT_BYTES_MAX, parseEnvironment } from './environment-file.ts';
import type { ProcessOwner } from './process-owner.ts';
import { redact } from './redact.ts';
import { readBounded, readSecrets, secretsFolder } from './secret-files.ts';

export type DeviceEnvironment = { ok: true; values: Record<string, string> } | { ok: false; message: string };

export type ApplicationFiles = {
  /** `SLUICE_DATA`. */
  dataDir: string;
  /** `SLUICE_SECRETS`: 0700. */
  secretsDir: string;
  /** Read again each time: `SLUICE_SECRETS`, and what the file says. */
  environment: () => Promise<DeviceEnvironment>;
  /**
   * What may leave the device of a text: without values of the file and contents of the secrets. Nothing of it where
   * those cannot all be known.
   */
  withoutSecrets: (text: string) => Promise<string>;
};

/** Makes the folders. With an owner they are the owner's. */
export const openApplicationFiles = async (
  config: Pick<AgentConfig, 'dataDir' | 'application'>,
  owner: ProcessOwner | null,
  log: Log,
): Promise<ApplicationFiles> => {
  const dataDir = join(config.dataDir, 'application');
  const secretsDir = secretsFolder(config);
  const file = config.application.environmentFile ?? join(config.dataDir, 'application.env');
  await asFarAsPossible(mkdir(dataDir, { recursive: true }));
  await asFarAsPossible(mkdir(secretsDir, { recursive: true, mode: 0o700 }));
  await keepPrivate(secretsDir, owner, log);
  if (owner !== null) await giveAccess(config.dataDir, dataDir, owner, log);
  await warnWhenOpen(file, log);
  const { refusal } = await readSecrets(secretsDir);
  if (refusal !== null) log.warn({ event: 'secrets-unknown' }, `logs and messages stay on this device: ${refusal}`);

  const read = async (): Promise<DeviceEnvironment> => {
    const text = await readBounded(file, ENVIRONMENT_BYTES_MAX).catch((error: unknown) => ({ code: errorCode(error) }));
    if (text === undefined) return { ok: false, message: `${file} has more than ${ENVIRONMENT_BYTES_MAX} bytes` };
    if (typeof text !== 'string') {
      const isDefault = config.application.environmentFile === undefined;
      if (text.code === 'ENOENT' && isDefault) return { ok: true, values: {} };
      return { ok: false, message: `${file} cannot be read (${text.code})` };
    }
    const parsed = parseEnvironment(text);
    return parsed.ok ? { ok: true, values: parsed.value } : { ok: false, message: `${file}: ${parsed.detail}` };
  };

  return {
    dataDir,
    secretsDir,
    environment: async () => {
      const found = await read();
      return found.ok ? { ok: true, values: { ...found.values, SLUICE_SECRETS: secretsDir } } : found;
    },
    withoutSecrets: async (text) => {
      if (text.trim() === '') return text;
      const found = await read();
      const { texts, refusal } = await readSecrets(secretsDir);
      if (refusal !== null) return `[withheld: ${refusal}]`;
      // Whole files, and each of their lines: an application may say either.
      const lines = texts.flatMap((file) => file.split('\n').map((line) => line.trim()));
      return redact(text, [...(found.ok ? Object.values(found.values) : []), ...texts, ...lines]);
    },
  };
};

/** On a file system that is only read it is as someone has put it there: no reason not to run. */
const keepPrivate = async (dir: string, owner: ProcessOwner | null, log: Log): Promise<void> => {
  try {
    await chmod(dir, 0o700);
    if (owner !== null) await chown(dir, owner.uid, owner.gid);
  } catch (error) {
    log.warn({ event: 'secrets-not-private', dir, err: error }, `${dir} cannot be made private: ${errorCode(error)}`);
  }
};

/**
 * The application's slot and data lie below: names above them may be gone through, not read. Each of these was done at
 * an earlier start, if the disk can only be read.
 */
const giveAccess = async (root: string, dataDir: string, owner: ProcessOwner, log: Log): Promise<void> => {
  try {
    const slots = join(root, 'slots');
    await mkdir(slots, { recursive: true });
    for (const dir of [root, slots]) await chmod(dir, 0o711);
    await chown(dataDir, owner.uid, owner.gid);
  } catch (error) {
    const why = storageRefusal(error, `the application's folders in ${root} cannot be given to its user`).message;
    log.warn({ event: 'folders-not-given', err: error }, why);
  }
};

const warnWhenOpen = async (file: string, log: Log): Promise<void> => {
  const there = await stat(file).catch(() => undefined);
  if (there !== undefined && (there.mode & 0o004) !== 0)
    log.warn({ event: 'environment-readable', file }, `everyone on this device can read ${file}: chmod 600 it`);
};
