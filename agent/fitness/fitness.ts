/** `sluice agent --check`: whether this device is fit, before anything is trusted to it. Changes nothing. */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { NODE_OF_AGENT } from '../application/agent-file.ts';
import { findOwner } from '../application/process-owner.ts';
import { readSecrets, secretsFolder } from '../application/secret-files.ts';
import { JOURNAL_SOCKET } from '../application/system-journal.ts';
import type { AgentConfig } from '../config/config.ts';
import { lockFolder } from '../disk/folder-lock.ts';
import { doubtful, type Finding, good, unfit } from './finding.ts';
import { examineFolder } from './folder.ts';
import { examineServer } from './server.ts';
import { examineSlots } from './slots.ts';

export type Fitness = { device: string; fit: boolean; findings: Finding[] };

export const examineDevice = async (config: AgentConfig, now: () => number): Promise<Fitness> => {
  const rooms = await Promise.all([
    Promise.resolve(examineSystem()),
    examineFolder(config),
    examineAgent(config.dataDir),
    examineSecrets(secretsFolder(config)),
    examineSlots(config),
    examineServer(config, now),
    examineCommands(config),
    examineOwner(config),
    examineOutput(config),
  ]);
  const findings = rooms.flat();
  return { device: config.device, fit: findings.every(({ state }) => state !== 'unfit'), findings };
};

const examineSystem = (): Finding[] => {
  const said = `${process.platform} ${process.arch}, Node ${process.versions.node}`;
  const todo = 'devices run Linux: locks, process groups and read-back are made for it';
  return [process.platform === 'linux' ? good('system', said) : doubtful('system', said, todo)];
};

const examineAgent = async (dataDir: string): Promise<Finding[]> => {
  const lock = await lockFolder(dataDir).catch(() => undefined);
  if (lock === undefined) return []; // There is no folder yet.
  if (!lock.ok) return [good('agent', 'runs at this moment')];
  await lock.value.release();
  return [good('agent', 'does not run at this moment')];
};

const examineSecrets = async (dir: string): Promise<Finding[]> => {
  const isThere = await access(dir).then(
    () => true,
    () => false,
  );
  if (!isThere) return [];
  const { texts, refusal } = await readSecrets(dir);
  if (refusal === null) return [good('secrets', `${texts.length} in ${dir} stay out of what leaves this device`)];
  return [doubtful('secrets', refusal, 'put it right, or the server gets no logs and no words of checks and hooks')];
};

const examineOwner = async ({ application: { user, group, groups } }: AgentConfig): Promise<Finding[]> => {
  const found = await findOwner({ user, group, groups: groups ?? [] });
  if (!found.ok) return [unfit('user', found.message, 'the agent does not start with it: put it right')];
  if (found.owner === null) return [];
  const { uid, gid, groups: others } = found.owner;
  const more = others.length === 0 ? '' : `, and with the groups ${others.join(', ')}`;
  return [good('user', `the application runs as user ${uid} of group ${gid}${more}`)];
};

const examineOutput = async ({ output }: AgentConfig): Promise<Finding[]> => {
  if (output.to !== 'journald') return [];
  const isThere = await access(JOURNAL_SOCKET).then(
    () => true,
    () => false,
  );
  if (isThere) return [good('output', 'what the application writes goes to the system journal')];
  return [doubtful('output', `there is no ${JOURNAL_SOCKET}`, 'is journald running? else set output.to to "file"')];
};

/** What this configuration will run one day, which is too late to find that it is not there. */
const examineCommands = async (config: AgentConfig): Promise<Finding[]> => {
  const commands = config.health.checks.flatMap((check) => (check.kind === 'command' ? [check.command[0]!] : []));
  if (config.slots.kind === 'image') {
    commands.push(config.slots.reboot[0]!);
    if (config.slots.selector.kind === 'raspberry-pi') commands.push(config.slots.selector.tryboot[0]!);
  }
  if (config.slots.kind === 'delegate') commands.push(config.slots.command[0]!);
  const lost: string[] = [];
  for (const command of new Set(commands)) if (!(await isThere(command))) lost.push(command);
  if (lost.length > 0)
    return [
      unfit('commands', `not found: ${lost.join(', ')}`, 'install them, or give their whole path in the configuration'),
    ];
  return commands.length === 0 ? [] : [good('commands', `found: ${[...new Set(commands)].join(', ')}`)];
};

const isThere = async (command: string): Promise<boolean> => {
  if (command === 'node' && NODE_OF_AGENT !== undefined) return true;
  const path = process.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin';
  const places = command.includes('/') ? [command] : path.split(delimiter).map((folder) => join(folder, command));
  for (const place of places) {
    const found = await access(place, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return true;
  }
  return false;
};

const MARKS = { good: 'ok', doubtful: 'warning', unfit: 'UNFIT' } as const;

/** For people: one finding a line, and what to do about it below. */
export const fitnessText = ({ device, fit, findings }: Fitness): string => {
  const width = Math.max(...findings.map(({ what }) => what.length));
  const lines = findings.flatMap(({ what, state, found, todo }) => [
    `${MARKS[state].padEnd(8)} ${what.padEnd(width)}  ${found}`,
    ...(todo === undefined ? [] : [`${' '.repeat(10 + width)} -> ${todo}`]),
  ]);
  const doubts = findings.filter(({ state }) => state === 'doubtful').length;
  const verdict = fit
    ? `${device} is fit${doubts === 0 ? '' : `, with ${doubts} warning${doubts === 1 ? '' : 's'}`}.`
    : `${device} is NOT fit: nothing should be trusted to it yet.`;
  return `${lines.join('\n')}\n\n${verdict}\n`;
};
