/** A small JSON document with its own checksum on a second line, so that a torn or flipped copy is known as such. */
import { hash } from 'node:crypto';
import type { z } from 'zod';

const BYTES_MAX = 512 * 1024;

export const seal = (value: object): string => {
  const json = JSON.stringify(value);
  return `${json}\n${hash('sha256', json)}\n`;
};

/** Undefined for anything that `seal` has not written whole, or that is not of the schema's form. */
export const unseal = <S extends z.ZodType>(bytes: Buffer, schema: S): z.infer<S> | undefined => {
  if (bytes.length > BYTES_MAX) return undefined;
  const [json, sum, end, ...more] = bytes.toString('utf8').split('\n');
  if (json === undefined || end !== '' || more.length > 0 || sum !== hash('sha256', json)) return undefined;
  return schema.safeParse(JSON.parse(json)).data;
};
