/** `sluice agent --unit`: a systemd unit for this configuration, to be written to /etc/systemd/system/sluice-agent.service. */
import { dirname } from 'node:path';
import type { AgentConfig } from './config.ts';
import { NODE_FLAGS } from './node-flags.ts';
import type { SelectorConfig } from './slots/boot-config.ts';

const STOP_S_MORE = 30;
/** Paths may hold spaces, and % begins a specifier (systemd.unit(5)). */
const word = (text: string): string => {
  const escaped = text.replaceAll('%', '%%').replaceAll('\\', '\\\\').replaceAll('"', '\\"');
  return /[\s"'\\]/.test(text) ? `"${escaped}"` : escaped;
};

export type UnitPlaces = { node: string; program: string[]; configFile: string | undefined };

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

export const unitText = (config: Configured, places: UnitPlaces): string => {
  const settings = places.configFile === undefined ? [] : ['--config', places.configFile];
  // Only the agent's own program can become another one.
  const launches = config.slots.kind === 'directories' && places.program.length === 1;
  const command = [places.node, ...NODE_FLAGS, ...places.program, ...(launches ? ['--launch'] : []), ...settings]
    .map(word)
    .join(' ');
  const images = config.slots.kind !== 'directories';
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
Environment=NODE_COMPILE_CACHE=${word(`${config.dataDir}/cache`)} MALLOC_ARENA_MAX=1
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

[Install]
WantedBy=multi-user.target
`;
};
