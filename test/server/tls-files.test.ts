import { generateKeyPairSync } from 'node:crypto';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readTlsFiles } from '#server/tls-files.ts';

const here = (name: string): string => join(import.meta.dirname, name);
const [certFile, keyFile] = [here('localhost-cert.pem'), here('localhost-key.pem')];
const [cert, key] = [readFileSync(certFile, 'utf8'), readFileSync(keyFile, 'utf8')];
const dir = mkdtempSync(join(tmpdir(), 'sluice-tls-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const NOW = Date.parse('2026-12-01T00:00:00Z');

const otherKey = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
const plain = otherKey.export({ type: 'pkcs8', format: 'pem' }).toString();
const encrypted = otherKey
  .export({ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'secret' })
  .toString();
const damaged = (pem: string): string => pem.replace(/\n[A-Za-z0-9+/]{12}/, '\nAAAAAAAAAAAA');

let made = 0;
const put = (content: string | Buffer): string => {
  const file = join(dir, `${made++}.pem`);
  writeFileSync(file, content);
  return file;
};
const why = (files: { certFile?: string; keyFile?: string }): string => {
  try {
    readTlsFiles({ certFile, keyFile, ...files }, NOW);
    return 'accepted';
  } catch (error) {
    expect(error).toMatchObject({ name: 'StartFailure' });
    return (error as Error).message;
  }
};

test('a certificate with its key is read', () => {
  expect(readTlsFiles({ certFile, keyFile }, NOW)).toEqual({ cert, key, warnings: [] });
  // As certbot and openssl write them: words around the blocks, and a chain behind the first.
  expect(why({ certFile: put(`subject=/CN=localhost\n${cert}\n${cert}`) })).toBe('accepted');
});

test.each<[string, { certFile?: string; keyFile?: string }, RegExp]>([
  [
    'there is no certificate file',
    { certFile: join(dir, 'none') },
    /none \(--tls-cert-file\) cannot be read: .*no such/,
  ],
  ['there is no key file', { keyFile: join(dir, 'none') }, /none \(--tls-key-file\) cannot be read: .*no such/],
  ['the certificate file is a folder', { certFile: dir }, /is not a file/],
  ['the certificate file is a device', { certFile: '/dev/zero' }, /is not a file/],
  ['the key file is empty', { keyFile: put('\n') }, /\(--tls-key-file\) is empty/],
  ['the certificate is garbage', { certFile: put('garbage') }, /holds no certificate: it must be PEM/],
  ['the certificate is DER', { certFile: put(Buffer.from(cert.split('\n').slice(1, -2).join(''), 'base64')) }, /PEM/],
  ['the certificate is cut short', { certFile: put(cert.slice(0, 400)) }, /holds no certificate/],
  ['the certificate is damaged', { certFile: put(damaged(cert)) }, /certificate 1 in .* is damaged/],
  ['the key is garbage', { keyFile: put('garbage') }, /holds no private key: it must be PEM/],
  ['the key is damaged', { keyFile: put(damaged(key)) }, /the key in .* is damaged/],
  ['the key is encrypted', { keyFile: put(encrypted) }, /is encrypted: decrypt it with openssl pkey/],
  ['the two are the wrong way round', { certFile: keyFile, keyFile: certFile }, /the wrong way round/],
  ['the key is a certificate', { keyFile: certFile }, /holds a certificate/],
  ['the key is of another certificate', { keyFile: put(plain) }, /does not belong to the certificate .*localhost/],
])('when %s, that is said', (_, files, sentence) => {
  expect(why(files)).toMatch(sentence);
});

test.skipIf(process.getuid?.() === 0)('a key that may not be read is named', () => {
  const file = put(key);
  chmodSync(file, 0);
  expect(why({ keyFile: file })).toMatch(/permission denied/);
});

test('a certificate that is not valid now is a warning, with the time', () => {
  const at = (time: string): string[] => readTlsFiles({ certFile, keyFile }, Date.parse(time)).warnings;
  expect(at('2999-01-01')).toEqual([expect.stringMatching(/CN ?= ?localhost in .* expired on \d{4}-/)]);
  expect(at('1999-01-01')).toEqual([expect.stringMatching(/is valid from \d{4}-.* on/)]);
});
