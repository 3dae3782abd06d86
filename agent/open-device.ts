/** What there is without any server: the slots, and the application with its files and its process. */
import { ownAgentFile } from './application/agent-file.ts';
import { openApplicationFiles } from './application/application-files.ts';
import { findOwner, type ProcessOwner } from './application/process-owner.ts';
import { secretsFolder } from './application/secret-files.ts';
import { openSupervisor } from './application/supervisor.ts';
import type { AgentConfig } from './config/config.ts';
import { bootingItself } from './launch/self-update.ts';
import { type Life, makeFolder } from './life.ts';
import { AgentStopped } from './process/agent-stopped.ts';
import { openSlots } from './slots/open-slots.ts';

export type DeviceParts = Awaited<ReturnType<typeof openDevice>>;

export const openDevice = async (life: Life) => {
  const { config, news, log, disk } = life;
  const { application, dataDir } = config;
  const owner = await ownerOf(config);
  for (const name of ['application', 'slots']) await makeFolder(life, name);
  await disk.folder(secretsFolder(config), 0o700);
  const files = await openApplicationFiles(config, owner, log);
  const supervisor = await openSupervisor({
    environment: files.environment,
    limits: application.limits,
    owner,
    output: config.output,
    log,
    dir: await makeFolder(life, 'supervisor'),
    stopMs: application.stopMs,
    ...(application.port === undefined ? {} : { port: application.port }),
  });
  const relaunching = new AbortController();
  const onInstalled = (bytesDone: number, bytesTotal: number) => void news.emit('installed', bytesDone, bytesTotal);
  const slots = await bootingItself(await openSlots(config, { supervisor, log, owner, onInstalled }), {
    dataDir,
    env: process.env,
    program: ownAgentFile(),
    relaunch: () => relaunching.abort(),
    log,
  });
  return {
    files,
    supervisor,
    slots,
    /** Aborted when another agent is to be started in place of this one. */
    relaunched: relaunching.signal,
  };
};

const ownerOf = async ({ application: { user, group, groups } }: AgentConfig): Promise<ProcessOwner | null> => {
  const found = await findOwner({ user, group, groups: groups ?? [] });
  if (!found.ok) throw new AgentStopped(found.message);
  return found.owner;
};
