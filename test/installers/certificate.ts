/** A key and a certificate of its own, as RAUC and SWUpdate want one. */
import { join } from 'node:path';
import { run } from '../agent/slots/selectors/rigs.ts';

export type Certificate = { key: string; certificate: string };

export const makeCertificate = (dir: string): Certificate => {
  const [key, certificate] = [join(dir, 'key.pem'), join(dir, 'certificate.pem')];
  const uses = ['-addext', 'keyUsage=digitalSignature', '-addext', 'extendedKeyUsage=codeSigning,emailProtection'];
  const subject = ['-days', '30', '-subj', '/CN=installers'];
  run('openssl', [
    'req',
    '-x509',
    '-newkey',
    'rsa:3072',
    '-nodes',
    '-keyout',
    key,
    '-out',
    certificate,
    ...subject,
    ...uses,
  ]);
  return { key, certificate };
};
