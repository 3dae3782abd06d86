/** What the agent has of its server: whom it trusts, how it asks, and what it still has to tell. */
import { uptime } from 'node:os';
import type { Sha256 } from '#shared/ids.ts';
import { BUILD_TIME } from './config/version.ts';
import { type Life, makeFolder } from './life.ts';
import type { DeviceParts } from './open-device.ts';
import { openKeptLogs } from './report/kept-logs.ts';
import type { RecentLines } from './report/recent-lines.ts';
import type { Enrolled } from './server/enrol.ts';
import { openFleetTime } from './server/fleet-time.ts';
import { openHttp, openServerClock } from './server/http.ts';
import type { Identity } from './server/identity.ts';
import { openLateLink } from './server/late-link.ts';
import { openMembership } from './server/membership.ts';
import { openSpread } from './server/spread.ts';
import { openTroubles } from './server/trouble.ts';
import { openDeviceTrust } from './trust/device-trust.ts';

const APPLICATION_LOG_BYTES_MAX = 24 * 1024;

export type ServerSide = Awaited<ReturnType<typeof openServerSide>>;

/** `signal` ends the attempts to join the fleet. */
export const openServerSide = async (
  life: Life,
  known: { identity: Identity; enrolled: Enrolled | undefined; root: Sha256 | undefined; recent: RecentLines },
  { files, supervisor }: Pick<DeviceParts, 'files' | 'supervisor'>,
  signal: AbortSignal,
) => {
  const { config, boot, now, backoff, disk, proxyFor, log } = life;
  const { identity, enrolled, root, recent } = known;
  const clock = openServerClock(now);
  const link = openLateLink();
  const trouble = openTroubles(() => life.news.emit('shown'));
  const http = openHttp({
    serverUrl: config.serverUrl,
    login: (at) => identity.login(at),
    boot,
    clock,
    proxyFor,
    bandwidth: config.bandwidth,
    cacheUrl: config.cacheUrl,
    blocks: link.blocks,
    log,
  });
  const trust = await openDeviceTrust({
    dir: await makeFolder(life, 'trust', 0o700),
    device: config.device,
    fetch: { get: http.getBytes },
    now,
    buildTime: BUILD_TIME,
  });
  const time = openFleetTime({
    wall: now,
    monotonic: () => uptime() * 1_000,
    earliest: () => trust.earliest(),
    trusted: () => trust.time(),
  });
  const spread = await openSpread(config.dataDir, disk);
  const logs = await openKeptLogs({
    dir: await makeFolder(life, 'kept-logs', 0o700),
    boot,
    last: { application: () => supervisor.lastOutput(APPLICATION_LOG_BYTES_MAX), agent: recent.last },
    withoutSecrets: files.withoutSecrets,
    link: () => link,
    http,
    backoff,
    now,
    log,
  });
  const membership = openMembership({
    dir: config.dataDir,
    disk,
    config,
    known: enrolled,
    root,
    identity,
    http,
    clock,
    trust,
    trouble,
    now,
    log,
    signal,
    backoff: config.reconnect,
    rootBackoff: backoff,
  });
  const stop = async (): Promise<void> => {
    await logs.stop();
    await link.stop();
  };
  return { identity, clock, link, http, trust, time, spread, logs, membership, trouble, stop };
};
