/** A key and a certificate of its own, as RAUC and SWUpdate want one: `key.pem` and `certificate.pem` in the folder. */
import { run } from './measure.ts';

export const makeCertificate = (folder: string): void => {
  const files = ['-keyout', 'key.pem', '-out', 'certificate.pem'];
  const uses = ['-addext', 'keyUsage=digitalSignature', '-addext', 'extendedKeyUsage=codeSigning,emailProtection'];
  run(
    'openssl',
    ['req', '-x509', '-newkey', 'rsa:3072', '-nodes', ...files, '-days', '30', '-subj', '/CN=bench', ...uses],
    folder,
  );
};
