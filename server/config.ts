/**
 * The server's whole configuration: one schema, parsed once. Values come, weakest first, from defaults, a file (YAML or
 * JSON), the environment (`SLUICE_HTTP_PORT`) and flags (`--http-port`). docs/operations.md has the table.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { resolve } from 'node:path';
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { MqttUrl } from '#shared/mqtt-url.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { Channels } from './domain/release/channel.ts';

const Port = z.coerce.number().int().min(0).max(65_535);
const Host = z.string().min(1).max(255);
const count = (max: number) => z.coerce.number().int().min(0).max(max);
/** The environment and flags know only text. */
const Switch = z.union([z.boolean(), z.enum(['true', 'false']).transform((word) => word === 'true')]);

/**
 * `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`; nothing that would trust everyone, since then a client could claim any address.
 */
const ProxyAddress = z.string().refine((text) => {
  const [address = '', bits, ...more] = text.split('/');
  const family = isIP(address);
  if (family === 0 || more.length > 0) return false;
  return bits === undefined || (/^[1-9]\d{0,2}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128));
}, 'must be addresses or networks such as 10.0.0.7 or 10.0.0.0/8');

export const ServerConfig = z.strictObject({
  /** Everything the server keeps: database, objects, metadata and keys. */
  dataDir: z.string().min(1).max(4096).default('./data'),
  http: z
    .strictObject({
      host: Host.default('127.0.0.1'),
      port: Port.default(8080),
      /** Reverse proxies whose `X-Forwarded-For` is believed: who asks is then who asked them. No one else's is. */
      trustProxy: z
        .union([z.array(z.string()), z.string().transform((list) => list.split(',').map((one) => one.trim()))])
        .pipe(z.array(ProxyAddress).max(100))
        .prefault([]),
    })
    .prefault({}),
  mqtt: z
    .strictObject({
      host: Host.default('127.0.0.1'),
      port: Port.default(1883),
      /** What enrolling devices are told to connect to; without it, made from host and port. */
      publicUrl: MqttUrl.optional(),
      connectionsMax: count(1_000_000).default(20_000),
      /** Of one IPv4 address or one IPv6 /64; 0 is no limit. Raise it when a fleet comes through one NAT or proxy. */
      connectionsPerAddressMax: count(1_000_000).default(2_000),
      /** Each device may send this many messages a second on average, and this many at once. */
      messagesPerSecond: z.coerce.number().min(0.1).max(10_000).default(10),
      messagesBurst: z.coerce.number().int().min(1).max(100_000).default(100),
      /** How many devices may connect in a second after a loss: a larger fleet is told to take longer. */
      connectsPerSecond: z.coerce.number().int().min(1).max(1_000_000).default(500),
      /** What each device may read over MQTT a second, where HTTP does not reach. */
      blockBytesPerSecond: z.coerce
        .number()
        .int()
        .min(16_384)
        .max(2 ** 30)
        .default(2 * 1024 ** 2),
    })
    .prefault({}),
  /** PEM files, for HTTP and MQTT alike. */
  tls: z.strictObject({ certFile: z.string().min(1), keyFile: z.string().min(1) }).optional(),
  log: z
    .strictObject({
      level: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
      /** Lines for people instead of JSON; unset: when standard output is a terminal. */
      pretty: Switch.optional(),
    })
    .prefault({}),
  /** Where releases can be staged, in the order in which they are promoted. */
  channels: z
    .union([z.array(z.unknown()), z.string().transform((list) => list.split(','))])
    .pipe(Channels)
    .prefault(['staging', 'production']),
  artifacts: z
    .strictObject({
      /** Open `/o/` and `/tuf/` to everyone, so that a cache or CDN may serve them. */
      public: Switch.default(false),
    })
    .prefault({}),
  packs: z
    .strictObject({
      /** Packs together; above it those used longest ago go. 0 makes none: devices fetch chunk by chunk. */
      bytesMax: count(2 ** 50).default(20 * 1024 ** 3),
    })
    .prefault({}),
  decisions: z
    .strictObject({
      /**
       * Of a rollout that is over all but its newest decision go so many days after that; 0 keeps all, as the audit log
       * is.
       */
      keptDays: count(36_500).default(0),
    })
    .prefault({}),
  /** After a start no one is overdue for this long at most: time for devices to come back to a server that was away. */
  restartGraceMs: count(86_400_000).default(600_000),
  /** How long a stop may take before connections are cut. */
  stopMs: count(600_000).default(10_000),
});
export type ServerConfig = z.infer<typeof ServerConfig>;

/** Every setting that has a name in the environment and on the command line. */
export const SETTINGS = [
  'dataDir',
  'http.host',
  'http.port',
  'http.trustProxy',
  'mqtt.host',
  'mqtt.port',
  'mqtt.publicUrl',
  'mqtt.connectionsMax',
  'mqtt.connectionsPerAddressMax',
  'mqtt.messagesPerSecond',
  'mqtt.messagesBurst',
  'mqtt.connectsPerSecond',
  'mqtt.blockBytesPerSecond',
  'tls.certFile',
  'tls.keyFile',
  'log.level',
  'log.pretty',
  'channels',
  'artifacts.public',
  'packs.bytesMax',
  'decisions.keptDays',
  'restartGraceMs',
  'stopMs',
] as const;
export type Setting = (typeof SETTINGS)[number];

const words = (setting: Setting): string[] => setting.split('.').flatMap((part) => part.split(/(?=[A-Z])/));
/** `mqtt.publicUrl` -> `SLUICE_MQTT_PUBLIC_URL` */
export const environmentName = (setting: Setting): string => `SLUICE_${words(setting).join('_').toUpperCase()}`;
/** `mqtt.publicUrl` -> `mqtt-public-url` */
export const flagName = (setting: Setting): string => words(setting).join('-').toLowerCase();

export type ConfigSources = {
  /** Path of a YAML or JSON file; it must exist when given. */
  file?: string | undefined;
  env: Record<string, string | undefined>;
  /** By flag name: `{ 'http-port': '8080' }`. Unknown names are refused. */
  flags: Record<string, string | undefined>;
};

/** Puts the sources together. Every value that is wrong is named, with where it came from. */
export const loadConfig = (sources: ConfigSources): Result<ServerConfig> => {
  const read = sources.file === undefined ? accept<unknown>({}) : readConfigFile(sources.file);
  if (!read.ok) return read;
  const unknown = Object.keys(sources.flags).find((flag) => !SETTINGS.some((setting) => flagName(setting) === flag));
  if (unknown !== undefined) return refuse('invalid-request', `there is no setting --${unknown}`);

  const raw = z.record(z.string(), z.unknown()).safeParse(read.value ?? {});
  if (!raw.success) return refuse('invalid-request', `${sources.file}: must be a mapping of settings`);
  const merged = structuredClone(raw.data);
  const origins = new Map<string, string>();
  for (const setting of SETTINGS) {
    const flag = sources.flags[flagName(setting)];
    const env = sources.env[environmentName(setting)];
    const value = flag ?? (env === '' ? undefined : env);
    if (value === undefined) continue;
    put(merged, setting.split('.'), value);
    origins.set(setting, flag === undefined ? environmentName(setting) : `--${flagName(setting)}`);
  }
  const parsed = ServerConfig.safeParse(merged);
  if (parsed.success) return accept({ ...parsed.data, dataDir: resolve(parsed.data.dataDir) });
  const wrong = parsed.error.issues.map(({ path, message }) => {
    const setting = path.map(String).join('.');
    return `${origins.get(setting) ?? (setting || 'configuration')}: ${message}`;
  });
  return refuse('invalid-request', wrong.join('; '));
};

const readConfigFile = (file: string): Result<unknown> => {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    return refuse('invalid-request', `the configuration file ${file} cannot be read (${codeOf(error)})`);
  }
  try {
    return accept<unknown>(parseYaml(text, { maxAliasCount: 0 }));
  } catch (error) {
    return refuse('invalid-request', `${file}: ${error instanceof Error ? error.message : String(error)}`);
  }
};
const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';

/** Whatever stands in the way and is no mapping is left for the schema to complain about. */
const put = (into: Record<string, unknown>, path: string[], value: string): void => {
  const [head, ...rest] = path;
  if (head === undefined) return;
  if (rest.length === 0) {
    into[head] = value;
    return;
  }
  const inner = z.record(z.string(), z.unknown()).safeParse(into[head] ?? {});
  if (!inner.success) return;
  into[head] = inner.data;
  put(inner.data, rest, value);
};
