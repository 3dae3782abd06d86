/** The device's own Ed25519 key: made at the first start, readable only by its user, never sent anywhere. */
import { chmod, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import type { Id } from '#shared/ids.ts';
import type { Signed } from '#shared/messages.ts';
import { ed25519SignerFromPem, generateEd25519Key, type Signer } from '#shared/trust/ed25519-signer.ts';
import { makeLogin } from '#shared/trust/login.ts';
import { signPayload } from '#shared/trust/signed.ts';
import type { Disk } from '../disk/disk.ts';
import { storageRefusal } from '../process/system-error.ts';

export type Identity = {
  device: Id;
  /** The raw public key in hexadecimal, as the server knows the device. */
  publicKey: string;
  /** True when the key was made just now. */
  created: boolean;
  sign(payload: { type: string }): Signed;
  /** A login token for a server whose clock says `at`. */
  login(at: number): string;
};

/**
 * Opens or makes `<dir>/device.key`. Throws when the file is not a private key: a new key would be another device. Also
 * where none can be made: a device without a key is no one's. One that others may read is made private as far as the
 * disk lets.
 */
export const openIdentity = async (dir: string, device: Id, disk: Pick<Disk, 'attempt'>): Promise<Identity> => {
  const file = join(dir, 'device.key');
  const known = await readFileIfThere(file);
  const pem = known?.toString('utf8') ?? generateEd25519Key();
  if (known === undefined) await makeKey(file, pem);
  else if (((await stat(file)).mode & 0o777) !== 0o600) await disk.attempt(file, () => chmod(file, 0o600));
  const signer = ed25519SignerFromPem(pem);
  if (!signer.ok) {
    throw new Error(`${file} is not an Ed25519 private key; restore it, or remove it and enrol this device again`);
  }
  return identityOf(signer.value, device, known === undefined);
};

const makeKey = async (file: string, pem: string): Promise<void> => {
  try {
    await writeFileDurably(file, pem, 0o600);
  } catch (error) {
    throw new Error(storageRefusal(error, `this device has no key yet, and ${file} cannot be written`).message, {
      cause: error,
    });
  }
};

export const identityOf = (signer: Signer, device: Id, created: boolean): Identity => ({
  device,
  publicKey: signer.key.keyval.public,
  created,
  sign: (payload) => signPayload(signer, payload),
  login: (at) => makeLogin(signer, device, at),
});
