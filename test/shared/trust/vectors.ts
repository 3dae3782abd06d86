/** Reads the public test vectors in `test/vectors/`. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';

const Case = z.object({ message: z.string(), sig: z.string() });
const read = async <S extends z.ZodType>(name: string, schema: S): Promise<z.infer<S>> =>
  schema.parse(JSON.parse(await readFile(new URL(`../../vectors/${name}`, import.meta.url), 'utf8')));

export const ed25519Vectors = () =>
  read(
    'ed25519.json',
    z.object({
      rfc8032: z.array(Case.extend({ seed: z.string(), publicKey: z.string() })),
      wycheproof: z.object({ publicKey: z.string(), valid: z.array(Case), invalid: z.array(Case) }),
    }),
  );
export const rsaPssVectors = () => read('rsa-pss.json', z.object({ publicKey: z.string(), valid: z.array(Case) }));
export const merkleVectors = () =>
  read(
    'merkle.json',
    z.object({
      leaves: z.array(z.string()),
      emptyRoot: z.string(),
      roots: z.array(z.string()),
      inclusion: z.array(z.object({ index: z.number(), size: z.number(), proof: z.array(z.string()) })),
      consistency: z.array(z.object({ from: z.number(), to: z.number(), proof: z.array(z.string()) })),
    }),
  );
