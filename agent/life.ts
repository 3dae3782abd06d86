/** What is the same for all parts of the agent in one life of its: from the start of the process to its end. */
import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { join } from 'node:path';
import { Id } from '#shared/ids.ts';
import { machineUptime, type Uptime } from '#shared/machine-uptime.ts';
import type { AgentConfig } from './config/config.ts';
import { type Disk, openDisk } from './disk/disk.ts';
import type { Backoff } from './domain/backoff.ts';
import type { News } from './domain/news.ts';
import type { Log } from './log.ts';
import type { ProxyFor } from './server/proxy.ts';

export type Life = {
  config: AgentConfig;
  /** This life's name. */
  boot: Id;
  startedAt: number;
  now: () => number;
  uptime: () => Promise<Uptime>;
  proxyFor: ProxyFor;
  /** Between attempts at metadata and objects. */
  backoff: Backoff;
  news: News;
  disk: Disk;
  log: Log;
};

const OBJECT_BACKOFF_MS_MAX = 60_000;

export const beginLife = (config: AgentConfig, proxyFor: ProxyFor, log: Log): Life => ({
  config,
  boot: Id.parse(`b${randomBytes(8).toString('hex')}`),
  startedAt: Date.now(),
  now: Date.now,
  uptime: machineUptime,
  proxyFor,
  backoff: { firstMs: config.reconnect.firstMs, maxMs: Math.min(config.reconnect.maxMs, OBJECT_BACKOFF_MS_MAX) },
  news: new EventEmitter(),
  disk: openDisk(config.dataDir, Date.now, log),
  log,
});

/** A part's own folder under the data folder, which may have to be made later. */
export const makeFolder = async (
  { config, disk }: Pick<Life, 'config' | 'disk'>,
  name: string,
  mode?: number,
): Promise<string> => {
  const dir = join(config.dataDir, name);
  await disk.folder(dir, mode);
  return dir;
};
