/**
 * The small values that every other contract is made of, each with its one schema, its limit, and what `/docs` shows
 * for it.
 */
import { z } from 'zod';

/**
 * Names of devices, products, cohorts, channels, rollouts, deployments. They stand in MQTT topics and file names, so
 * nothing else is allowed.
 */
export const Id = z
  .string()
  .regex(/^[A-Za-z0-9_-]{1,64}$/, 'must be 1 to 64 letters, digits, "-" or "_"')
  .brand<'Id'>()
  .meta({ examples: ['gw-01'] });
export type Id = z.infer<typeof Id>;

/** The hardware tag that a bundle and a device share. Also stands in TUF paths. */
export const Compatible = Id.describe('the hardware tag that a bundle and a device share');

/** Lower-case hexadecimal SHA-256. */
export const Sha256 = z
  .string()
  .regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hexadecimal digits')
  .brand<'Sha256'>()
  .meta({ examples: ['e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'] });
export type Sha256 = z.infer<typeof Sha256>;

/** Milliseconds since 1970 (UTC): every time in messages, rows and views. */
export const Millis = z
  .number()
  .int()
  .min(0)
  .max(253_402_300_799_999)
  .meta({ examples: [1_795_219_200_000] });
export type Millis = z.infer<typeof Millis>;
/** A length of time in milliseconds, at most 400 days. */
export const DurationMs = z.number().int().min(0).max(34_560_000_000);

/** Semantic version 2.0.0 without a leading "v" (https://semver.org); the official expression, with a length limit. */
export const Version = z
  .string()
  .max(64)
  .regex(
    /^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$/,
    'must be a semantic version such as 1.4.0',
  )
  .meta({ examples: ['1.4.0'] });

/** How people and the API name a release: `product@version`. */
export const ReleaseRef = z
  .string()
  .max(129)
  .regex(/^[A-Za-z0-9_-]{1,64}@[0-9A-Za-z.+-]{1,64}$/, 'must be product@version, such as gateway@1.4.0')
  .meta({ examples: ['gateway@1.4.0'] });
export const releaseRef = (product: string, version: string): string => `${product}@${version}`;

/**
 * The TUF path of a bundle's manifest. The role `ci-<product>` may sign for every path of this form with its product.
 */
export const manifestPath = (product: string, version: string, compatible: string): string =>
  `fw/${product}/${version}/${compatible}.json`;

/**
 * Free text that people read: bounded, no control characters but newline and tab. Half of a surrogate pair, as cutting
 * leaves behind, becomes U+FFFD at once: UTF-8 has no form for it, so a database or a file would change it later.
 */
export const text = (charsMax: number) =>
  z
    .string()
    .max(charsMax)
    .refine((value) => !/[^\P{Cc}\n\t]/u.test(value), 'must not contain control characters')
    .overwrite((value) => value.toWellFormed());

export const unreachable = (value: never): never => {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
};
