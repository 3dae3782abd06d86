/**
 * The agent's whole configuration: one schema, parsed once. Values come, weakest first, from defaults, a JSON file
 * (`--config`), the environment (`SLUICE_AGENT_SERVER_URL`) and flags (`--server-url`). docs/agent.md has the table.
 */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { z } from 'zod';
import { ENROLMENT_TOKEN } from '#shared/device-api.ts';
import { Compatible, DurationMs, Id, Sha256, text } from '#shared/ids.ts';
import { HealthCheck } from '#shared/manifest.ts';
import { MqttUrl } from '#shared/mqtt-url.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { parseAddress } from './address.ts';
import { Limits } from './limits-config.ts';
import { MeteredConfig } from './metered-config.ts';
import { OutputConfig } from './output-config.ts';
import { NO_PROXY, parseProxy, splitWords } from './proxy-config.ts';
import { SlotsConfig } from './slots-config.ts';

/** Below it an honest transfer would look like one that is slow on purpose. */
const BANDWIDTH_MIN = 4_096;

/** The environment and flags know only text. */
const whole = (min: number, max: number) => z.coerce.number().int().min(min).max(max);
const Switch = z.union([z.boolean(), z.enum(['true', 'false']).transform((word) => word === 'true')]);
const AbsolutePath = z.string().max(4096).regex(/^\//, 'must be an absolute path');
/** A user or a group, by name or number. */
const Owner = z.string().min(1).max(64);
const duration = (minMs: number) => z.coerce.number().pipe(DurationMs.min(minMs));

const Attributes = z
  .record(z.string().regex(/^[a-z][a-z0-9_.-]{0,63}$/, 'names are lower-case'), text(256))
  .refine((all) => Object.keys(all).length <= 48, 'at most 48');

/** How the bytes of installed artifacts are kept. */
const KEEP = ['raw', 'zstd', 'none'] as const;

export type Keep = (typeof KEEP)[number];

export const AgentConfig = z.strictObject({
  /** This device's name at the server; forever. */
  device: Id,
  serverUrl: z
    .url({ protocol: /^https?$/, message: 'must be http://host:port or https://host' })
    .max(512)
    .transform((url) => url.replace(/\/+$/, '')),
  /**
   * Through which HTTP and MQTT go out, with its login: instead of HTTPS_PROXY and the like. `none`: directly, whatever
   * those say.
   */
  proxy: z
    .string()
    .max(1024)
    .refine((proxy) => proxy === NO_PROXY || parseProxy(proxy) !== undefined, 'must be http://host:port, or none')
    .optional(),
  /** What is reached directly, as in NO_PROXY, and instead of it. */
  noProxy: z
    .union([z.array(text(253)), z.string().max(16_384).transform(splitWords)])
    .pipe(z.array(text(253)).max(256))
    .optional(),
  /** Instead of what the server says at enrolment, for example behind a tunnel. */
  mqttUrl: MqttUrl.optional(),
  /** Everything the agent keeps: key, journal, metadata, slots, the application's data. */
  dataDir: z.string().min(1).max(4096).default('./agent-data'),
  /** The hardware tag that bundles must share. */
  compatible: Compatible,
  /** Reported to the server, for selectors: `site=lyon,model=gw2` as text. */
  attributes: z.union([Attributes, z.string().max(16_384).transform(parsePairs).pipe(Attributes)]).default({}),
  /** An enrolment token; without one the device waits until an operator accepts it. */
  token: z.string().regex(ENROLMENT_TOKEN, 'must be an enrolment token (sle_...)').optional(),
  /** SHA-256 of the server's first root metadata, where no token carries it. */
  trustRoot: Sha256.optional(),
  /** Believe whatever root the server shows first. Only for a network that no one else is on. */
  trustOnFirstUse: Switch.default(false),
  heartbeatMs: duration(100).default(60_000),
  /** How often to ask over HTTP while MQTT cannot be reached. */
  pollMs: duration(100).default(300_000),
  /**
   * A server that has answered nothing for so long is unreachable, for offers that may then be activated unconfirmed.
   */
  unreachableMs: duration(1_000).default(60_000),
  /** First and longest wait before connecting again. */
  reconnect: z
    .strictObject({ firstMs: duration(10).default(1_000), maxMs: duration(10).default(300_000) })
    .prefault({}),
  application: z
    .strictObject({
      /** Its `PORT`, and `{port}` in health checks. */
      port: whole(1, 65_535).optional(),
      /** How long it may take to stop before it is killed. */
      stopMs: duration(100).default(5_000),
      /**
       * Variables that this device adds to its environment. Default: `application.env` in the data folder, if it is
       * there.
       */
      environmentFile: AbsolutePath.optional(),
      /** Its `SLUICE_SECRETS`. Default: `secrets` in the data folder. */
      secretsDir: AbsolutePath.optional(),
      /** As whom it runs; only for an agent that runs as root. */
      user: Owner.optional(),
      group: Owner.optional(),
      /** Added to those that the user has anyway: `dialout,gpio` as text. */
      groups: z
        .union([z.array(Owner), z.string().transform((list) => list.split(',').map((one) => one.trim()))])
        .pipe(z.array(Owner).max(64))
        .optional(),
      /** Only in the file. */
      limits: Limits.prefault({}),
    })
    .prefault({}),
  /** What becomes of what the application writes. */
  output: OutputConfig.prefault({}),
  /** How often a version on trial may be started. */
  trialTries: whole(1, 100).default(3),
  slotBytesMax: whole(1, Number.MAX_SAFE_INTEGER).default(8 * 1024 ** 3),
  /** What the A/B pair is made of. Only in the file. */
  slots: SlotsConfig.prefault({ kind: 'directories' }),
  /**
   * What a deployment's trial does to the application's data is undone when it is reverted; `snapshot` unset: as the
   * release asks.
   */
  data: z
    .strictObject({ snapshot: Switch.optional(), bytesMax: whole(1, Number.MAX_SAFE_INTEGER).default(1024 ** 3) })
    .prefault({}),
  health: z
    .strictObject({
      /** Added to those of every release. Only in the file. */
      checks: z.array(HealthCheck).max(16).default([]),
      /** Besides the server: who should answer while the network works, `host:port`. Only in the file. */
      probes: z
        .array(z.string().refine((probe) => parseAddress(probe) !== undefined, 'must be host:port'))
        .max(8)
        .default([]),
      /** How often checks are performed once a version is committed. */
      intervalMs: duration(100).default(60_000),
    })
    .prefault({}),
  /** How installed artifacts are kept, so that the next version costs only what changed. */
  keepArtifacts: z.enum(KEEP).default('zstd'),
  /** Bytes a second that downloads may take; 0 is no limit. */
  bandwidth: z.coerce
    .number()
    .int()
    .min(0)
    .max(Number.MAX_SAFE_INTEGER)
    .refine((limit) => limit === 0 || limit >= BANDWIDTH_MIN, `must be 0 or at least ${BANDWIDTH_MIN}`)
    .default(0),
  /** What may be fetched while the link costs money. */
  metered: MeteredConfig.prefault({}),
  /** A site's shared HTTP cache in front of the server, for what is named by its digest. */
  cacheUrl: z
    .url({ protocol: /^https?$/, message: 'must be http://host:port' })
    .max(512)
    .transform((url) => url.replace(/\/+$/, ''))
    .optional(),
  /** What local programs may say about an update that wants to install or to activate (docs/local-api.md). */
  consent: z
    .strictObject({
      /** How long each step waits for a word; 0: it goes on unless it is deferred. */
      askMs: duration(0).default(0),
      /** How often each step may be deferred, and for how long each time. */
      deferralsMax: whole(0, 100).default(3),
      deferMsMax: duration(0).default(86_400_000),
    })
    .prefault({}),
  /** The socket for local programs. */
  local: z
    .strictObject({
      /** Default: `agent.sock` in the data folder. */
      socket: AbsolutePath.optional(),
      /** Its file mode, in octal: the agent's user alone, or its group as well. */
      mode: z.enum(['600', '660']).default('600'),
    })
    .prefault({}),
  log: z
    .strictObject({
      level: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
      /** Lines for people instead of JSON; unset: when standard output is a terminal. */
      pretty: Switch.optional(),
    })
    .prefault({}),
});
export type AgentConfig = z.infer<typeof AgentConfig>;

/** Every setting that has a name in the environment and on the command line. */
export const AGENT_SETTINGS = [
  'device',
  'serverUrl',
  'proxy',
  'noProxy',
  'mqttUrl',
  'dataDir',
  'compatible',
  'attributes',
  'token',
  'trustRoot',
  'trustOnFirstUse',
  'heartbeatMs',
  'pollMs',
  'unreachableMs',
  'reconnect.firstMs',
  'reconnect.maxMs',
  'application.port',
  'application.stopMs',
  'application.environmentFile',
  'application.secretsDir',
  'application.user',
  'application.group',
  'application.groups',
  'output.to',
  'output.bytesPerSecond',
  'output.burstBytes',
  'data.snapshot',
  'data.bytesMax',
  'health.intervalMs',
  'trialTries',
  'slotBytesMax',
  'keepArtifacts',
  'bandwidth',
  'metered.policy',
  'metered.file',
  'metered.delayMs',
  'metered.bytesFree',
  'cacheUrl',
  'consent.askMs',
  'consent.deferralsMax',
  'consent.deferMsMax',
  'local.socket',
  'local.mode',
  'log.level',
  'log.pretty',
] as const;
export type AgentSetting = (typeof AGENT_SETTINGS)[number];

const words = (setting: AgentSetting): string[] => setting.split('.').flatMap((part) => part.split(/(?=[A-Z])/));
/** `serverUrl` -> `SLUICE_AGENT_SERVER_URL` */
export const agentEnvironmentName = (setting: AgentSetting): string =>
  `SLUICE_AGENT_${words(setting).join('_').toUpperCase()}`;
/** `serverUrl` -> `server-url` */
export const agentFlagName = (setting: AgentSetting): string => words(setting).join('-').toLowerCase();

export type AgentConfigSources = {
  /** Path of a JSON file; it must exist when given. */
  file?: string | undefined;
  env: Record<string, string | undefined>;
  /** By flag name: `{ 'server-url': 'http://...' }`. Unknown names are refused. */
  flags: Record<string, string | undefined>;
};

/** Puts the sources together. Every value that is wrong or missing is named, with where it came from. */
export const loadAgentConfig = (sources: AgentConfigSources): Result<AgentConfig> => {
  const read = sources.file === undefined ? accept<Record<string, unknown>>({}) : readConfigFile(sources.file);
  if (!read.ok) return read;
  const known = new Set(AGENT_SETTINGS.map(agentFlagName));
  const unknown = Object.keys(sources.flags).find((flag) => !known.has(flag));
  if (unknown !== undefined) return refuse('invalid-request', `there is no setting --${unknown}`);

  const merged = read.value;
  const origins = new Map<string, string>();
  for (const setting of AGENT_SETTINGS) {
    const flag = sources.flags[agentFlagName(setting)];
    const env = sources.env[agentEnvironmentName(setting)];
    const value = flag ?? (env === '' ? undefined : env);
    if (value === undefined) continue;
    put(merged, setting, value);
    origins.set(setting, flag === undefined ? agentEnvironmentName(setting) : `--${agentFlagName(setting)}`);
  }
  const parsed = AgentConfig.safeParse(merged);
  if (!parsed.success) return refuse('invalid-request', explain(parsed.error, merged, origins));
  return accept({ ...parsed.data, dataDir: resolve(parsed.data.dataDir) });
};

const readConfigFile = (file: string): Result<Record<string, unknown>> => {
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';
    return refuse('invalid-request', `the configuration file ${file} cannot be read (${code})`);
  }
  try {
    const parsed = z.record(z.string(), z.unknown()).safeParse(JSON.parse(content));
    return parsed.success ? accept(parsed.data) : refuse('invalid-request', `${file}: must be a JSON object`);
  } catch (error) {
    return refuse(
      'invalid-request',
      `${file}: is not JSON (${error instanceof Error ? error.message : String(error)})`,
    );
  }
};

/**
 * Settings have at most two levels. Whatever stands in the way and is no object is left for the schema to complain
 * about.
 */
const put = (into: Record<string, unknown>, setting: AgentSetting, value: string): void => {
  const [outer, inner] = setting.split('.');
  if (outer === undefined) return;
  if (inner === undefined) {
    into[outer] = value;
    return;
  }
  const group = z.record(z.string(), z.unknown()).safeParse(into[outer] ?? {});
  if (group.success) into[outer] = { ...group.data, [inner]: value };
};

const explain = (error: z.ZodError, merged: Record<string, unknown>, origins: Map<string, string>): string =>
  error.issues
    .map(({ path, message }) => {
      const setting = path.map(String).join('.');
      const named = AGENT_SETTINGS.find((known) => known === setting);
      if (named !== undefined && path.length === 1 && merged[named] === undefined) {
        return `${named} is missing: give --${agentFlagName(named)}, ${agentEnvironmentName(named)}, or "${named}" in the file`;
      }
      return `${origins.get(setting) ?? (setting || 'configuration')}: ${message}`;
    })
    .join('; ');

/** `site=lyon,model=gw2`. A part without a value becomes empty. */
function parsePairs(list: string): Record<string, string> {
  const pairs = list.split(',').filter((part) => part.trim() !== '');
  return Object.fromEntries(
    pairs.map((part) => {
      const at = part.indexOf('=');
      return at === -1 ? [part.trim(), ''] : [part.slice(0, at).trim(), part.slice(at + 1).trim()];
    }),
  );
}
