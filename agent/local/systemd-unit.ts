/**
 * `sluice agent --unit`: a systemd unit for this configuration, to be written to
 * /etc/systemd/system/sluice-agent.service. It carries the flags that it was asked with; variables of the environment
 * and the enrolment token belong in its environment file, and it says which.
 */
import { dirname } from 'node:path';
import type { SelectorConfig } from '../config/boot-config.ts';
import { AGENT_SETTINGS, type AgentConfig, agentEnvironmentName, agentFlagName } from '../config/config.ts';
import { MALLOC_ENVIRONMENT, NODE_FLAGS } from '../process/node-flags.ts';

const STOP_S_MORE = 30;
/** Paths may hold spaces, and % begins a specifier (systemd.unit(5)). */
const word = (text: string): string => {
  const escaped = text.replaceAll('%', '%%').replaceAll('\\', '\\\\').replaceAll('"', '\\"');
  return /[\s"'\\]/.test(text) ? `"${escaped}"` : escaped;
};

/** In ExecStart= a $ begins a variable. */
const argument = (text: string): string => word(text.replaceAll('$', '$$$$'));

/**
 * `node` is undefined for a program that has its own in it; `words` come first after the program; `flags` by name,
 * without dashes.
 */
export type UnitPlaces = {
  node: string | undefined;
  program: string;
  words: string[];
  configFile: string | undefined;
  flags: Record<string, string | undefined>;
};

const ENVIRONMENT_FILE = '/etc/sluice-agent.env';
/** A unit can be read by everyone, and a proxy may have a login. */
const SECRET_FLAGS: readonly string[] = [agentFlagName('token'), agentFlagName('proxy')];

const isProxyVariable = (name: string): boolean => /^(https?|all|no)_proxy$/i.test(name);

/** Names only. */
const leftOut = ({ flags }: UnitPlaces, env: Record<string, string | undefined>): string[] =>
  AGENT_SETTINGS.filter((setting) => {
    const flag = agentFlagName(setting);
    const isSet = (env[agentEnvironmentName(setting)] ?? '') !== '';
    return SECRET_FLAGS.includes(flag) ? isSet || flags[flag] !== undefined : isSet && flags[flag] === undefined;
  }).map(agentEnvironmentName);

type Configured = Pick<AgentConfig, 'device' | 'dataDir' | 'slots' | 'application' | 'local'>;

/** What the agent writes outside of its data folder. */
const otherPlaces = ({ application, local, slots }: Configured): string[] => [
  ...(application.secretsDir === undefined ? [] : [application.secretsDir]),
  ...(local.socket === undefined ? [] : [dirname(local.socket)]),
  ...('selector' in slots ? bootPlaces(slots.selector) : []),
  // Partitions are devices, which the sandbox leaves alone.
  ...('a' in slots ? [slots.a, slots.b].filter((slot) => !slot.startsWith('/dev/')) : []),
  ...(slots.kind === 'directories' ? [] : ['/boot']),
];
const bootPlaces = (selector: SelectorConfig): string[] => {
  switch (selector.kind) {
    case 'grub':
      return [dirname(selector.environment)];
    case 'raspberry-pi':
      return [dirname(selector.autoboot)];
    case 'systemd-boot':
      return [selector.entries];
    default:
      return [];
  }
};

/**
 * What neither the agent nor an application in a folder should need; installers of images do. Machine code made at run
 * time, other devices and the agent's power over processes and owners remain: applications have a Node of their own,
 * hardware, and may have a user.
 */
const APPLICATIONS_ONLY = `RestrictNamespaces=yes
CapabilityBoundingSet=~CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_PACCT CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_BPF
CapabilityBoundingSet=~CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_AUDIT_WRITE CAP_LINUX_IMMUTABLE CAP_LEASE CAP_WAKE_ALARM CAP_BLOCK_SUSPEND
SystemCallFilter=~@clock @cpu-emulation @module @mount @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
`;

export const unitText = (
  config: Configured,
  places: UnitPlaces,
  env: Record<string, string | undefined> = {},
): string => {
  const { node, program, words, configFile } = places;
  // What is relative is so to where this was asked; the sandbox below is for this folder, too.
  const flags = { ...places.flags, [agentFlagName('dataDir')]: config.dataDir };
  const settings = [
    ...(configFile === undefined ? [] : ['--config', configFile]),
    ...Object.entries(flags).flatMap(([name, value]) =>
      value === undefined || SECRET_FLAGS.includes(name) ? [] : [`--${name}=${value}`],
    ),
  ];
  // Only the agent's own program can become another one.
  const launches = config.slots.kind === 'directories' && words.length === 0;
  const start = node === undefined ? [program] : [node, ...NODE_FLAGS, program];
  const command = [...start, ...words, ...(launches ? ['--launch'] : []), ...settings].map(argument).join(' ');
  const missing = [...leftOut(places, env), ...Object.keys(env).filter(isProxyVariable)];
  const note = missing.length === 0 ? '' : `# Not in here, but set when this was printed: ${missing.join(', ')}\n`;
  const images = config.slots.kind !== 'directories';
  const malloc = Object.entries(MALLOC_ENVIRONMENT).map(([name, value]) => `${name}=${value}`);
  return `[Unit]
Description=Sluice agent of ${config.device}
Wants=network-online.target
After=network-online.target time-sync.target
# A device that gives up on its agent is lost: never.
StartLimitIntervalSec=0

[Service]
Type=notify
# systemd-notify sends the words, as a process of its own.
NotifyAccess=all
ExecStart=${command}
Environment=${[...(node === undefined ? [] : [word(`NODE_COMPILE_CACHE=${config.dataDir}/cache`)]), ...malloc].join(' ')}
# Settings of the agent as variables: for its user alone, chmod 600.
${note}EnvironmentFile=-${ENVIRONMENT_FILE}
WatchdogSec=180
Restart=always
RestartSec=5
# First the agent alone, which stops the application; then whatever is left.
KillMode=mixed
TimeoutStartSec=120
TimeoutStopSec=${Math.ceil(config.application.stopMs / 1_000) + STOP_S_MORE}
OOMScoreAdjust=-500
LimitCORE=0
UMask=0077

NoNewPrivileges=${images ? 'no' : 'yes'}
ProtectSystem=strict
ReadWritePaths=${[...new Set([config.dataDir, ...otherPlaces(config)])].map((path) => `-${word(path)}`).join(' ')}
ProtectHome=${config.dataDir.startsWith('/home/') || config.dataDir.startsWith('/root/') ? 'no' : 'yes'}
PrivateTmp=yes
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectKernelLogs=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
ProtectHostname=yes
${images ? '' : APPLICATIONS_ONLY}
[Install]
WantedBy=multi-user.target
`;
};
