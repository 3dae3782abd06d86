/** The server's TLS certificate and key: read, and held against each other, before anything listens. */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import type { Logger } from 'pino';
import { StartFailure } from './start-failure.ts';

export type TlsFiles = {
  cert: string;
  key: string;
  /** What an operator should know, though the server can start. */
  warnings: string[];
};

/** A chain of ten certificates has some 20 kB. */
const FILE_BYTES_MAX = 1024 * 1024;
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;
const PRIVATE_KEY = /-----BEGIN [A-Z ]*PRIVATE KEY-----/;

/** Throws `StartFailure` that names the file, what is wrong with it, and what to do. `now` in milliseconds. */
export const readTlsFiles = (files: { certFile: string; keyFile: string }, now: number): TlsFiles => {
  const cert = readPem(files.certFile, '--tls-cert-file');
  const key = readPem(files.keyFile, '--tls-key-file');
  const chain = readChain(files, cert);
  const privateKey = readKey(files, key);
  checkMatch(files, chain, privateKey);
  try {
    createSecureContext({ cert, key, minVersion: 'TLSv1.2' });
  } catch (error) {
    throw new StartFailure(`TLS cannot use ${files.certFile} with ${files.keyFile}: ${reasonOf(error)}`, error);
  }
  return { cert, key, warnings: chain.flatMap((one) => datesOf(files.certFile, one, now)) };
};

/** As the configuration names them. What an operator should know of them goes to the log. */
export const openTls = (
  files: { certFile: string; keyFile: string } | undefined,
  now: number,
  log: Pick<Logger, 'warn'>,
): Pick<TlsFiles, 'cert' | 'key'> | undefined => {
  if (files === undefined) return undefined;
  const { cert, key, warnings } = readTlsFiles(files, now);
  for (const warning of warnings) log.warn({ event: 'tls-certificate' }, warning);
  return { cert, key };
};

const readPem = (file: string, flag: string): string => {
  try {
    const there = statSync(file);
    if (!there.isFile()) throw new StartFailure(`${file} (${flag}) is not a file`);
    if (there.size > FILE_BYTES_MAX) throw new StartFailure(`${file} (${flag}) is larger than a PEM file can be`);
    const text = readFileSync(file, 'utf8');
    if (text.trim() === '') throw new StartFailure(`${file} (${flag}) is empty`);
    return text;
  } catch (error) {
    if (error instanceof StartFailure) throw error;
    throw new StartFailure(`${file} (${flag}) cannot be read: ${reasonOf(error)}`, error);
  }
};

/** The server's own certificate first, then the authorities that vouch for it. */
const readChain = ({ certFile, keyFile }: { certFile: string; keyFile: string }, text: string): X509Certificate[] => {
  const blocks = text.match(CERTIFICATE) ?? [];
  if (blocks.length === 0) {
    const why = PRIVATE_KEY.test(text)
      ? `it holds a private key; are --tls-cert-file and --tls-key-file (${keyFile}) the wrong way round?`
      : 'it must be PEM, with "-----BEGIN CERTIFICATE-----"';
    throw new StartFailure(`${certFile} (--tls-cert-file) holds no certificate: ${why}`);
  }
  return blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch (error) {
      throw new StartFailure(
        `certificate ${index + 1} in ${certFile} (--tls-cert-file) is damaged: ${reasonOf(error)}`,
        error,
      );
    }
  });
};

const readKey = ({ keyFile }: { keyFile: string }, text: string): KeyObject => {
  const named = `${keyFile} (--tls-key-file)`;
  if (!PRIVATE_KEY.test(text)) {
    const why = text.includes('-----BEGIN CERTIFICATE-----')
      ? 'it holds a certificate'
      : 'it must be PEM, with "-----BEGIN PRIVATE KEY-----"';
    throw new StartFailure(`${named} holds no private key: ${why}`);
  }
  if (/ENCRYPTED/.test(text)) {
    throw new StartFailure(`the key in ${named} is encrypted: decrypt it with openssl pkey -in FILE -out PLAIN`);
  }
  try {
    return createPrivateKey(text);
  } catch (error) {
    throw new StartFailure(`the key in ${named} is damaged: ${reasonOf(error)}`, error);
  }
};

const checkMatch = (
  { certFile, keyFile }: { certFile: string; keyFile: string },
  chain: X509Certificate[],
  key: KeyObject,
): void => {
  const place = chain.findIndex((one) => one.checkPrivateKey(key));
  if (place === 0) return;
  throw new StartFailure(
    place === -1
      ? `the key in ${keyFile} does not belong to the certificate in ${certFile} (${subjectOf(chain[0]!)})`
      : `${certFile} begins with another certificate (${subjectOf(chain[0]!)}): the server's own must come first, then its authorities`,
  );
};

const datesOf = (file: string, certificate: X509Certificate, now: number): string[] => {
  const [from, to] = [certificate.validFromDate, certificate.validToDate];
  const named = `the certificate of ${subjectOf(certificate)} in ${file}`;
  if (now > to.getTime()) return [`${named} expired on ${to.toISOString()}: devices and browsers refuse it`];
  if (now < from.getTime()) return [`${named} is valid from ${from.toISOString()} on: until then it is refused`];
  return [];
};

const subjectOf = ({ subject }: X509Certificate): string => subject.replaceAll('\n', ', ') || 'an empty subject';

/** Of the system's and of OpenSSL's errors, what says something to people. */
const reasonOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error);
  if ('reason' in error && typeof error.reason === 'string') return error.reason;
  const code = 'code' in error ? String(error.code) : '';
  const words: Record<string, string> = { ENOENT: 'there is no such file', EACCES: 'permission denied' };
  return words[code] ?? error.message;
};
