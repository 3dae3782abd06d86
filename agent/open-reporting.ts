/** Who speaks for the agent: to its server, to local programs, to the service manager. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { AGENT_VERSION } from './config/version.ts';
import { runningNow } from './deployment/perform-parts.ts';
import type { Life } from './life.ts';
import { type LocalApi, openLocalApi } from './local/local-api.ts';
import { openServiceManager } from './local/service-manager.ts';
import { openStatusFile } from './local/status-file.ts';
import type { Deployments } from './open-deployments.ts';
import type { DeviceParts } from './open-device.ts';
import type { ServerSide } from './open-server-side.ts';
import { attributesOf, illnessOf } from './report/attributes.ts';
import { openReporter } from './report/report.ts';
import { watchSteadyHealth } from './report/steady-health.ts';
import { watchSlots } from './slots/slots-health.ts';

export type Reporting = Awaited<ReturnType<typeof openReporting>>;

type Parts = { device: DeviceParts; server: ServerSide; deployments: Deployments };

export const openReporting = async (life: Life, parts: Parts) => {
  const { config, news, log } = life;
  const { machine, holds } = parts.deployments;
  const status = openStatus(life, parts);
  const manager = openServiceManager({
    env: process.env,
    writingMs: machine.writingMs,
    served: () => stat(config.dataDir),
    log,
  });
  const { reporter, steady } = await openReports(life, parts);
  news.on('entered', (sentence) => manager.says(sentence));
  news.on('reported', () => reporter.changed());
  news.on('shown', status.changed);

  let local: LocalApi | undefined;
  return {
    reporter,
    status,
    /** The agent is up. */
    begin: async (): Promise<void> => {
      manager.ready();
      const socket = config.local.socket ?? join(config.dataDir, 'agent.sock');
      local = await openLocalApi({ socket, mode: Number.parseInt(config.local.mode, 8), status, holds, log });
    },
    stop: async (): Promise<void> => {
      // First of all nothing is said any more: an application that is being stopped is not ill.
      reporter.stop();
      await Promise.all([steady.stop(), manager.stopping(), local?.stop()]);
    },
  };
};

const openStatus = ({ config, startedAt, now, disk }: Life, { device, server, deployments }: Parts) => {
  const { machine, inbox, holds, progress } = deployments;
  const look = async () => ({
    device: config.device,
    at: now(),
    progress: progress.now(),
    running: await runningNow(device.slots),
    connected: server.link.connected(),
    refusal: inbox.refusal(),
    trouble: server.link.connected() ? null : server.trouble.now(),
    install: machine.memory().install,
    spreadMs: server.spread.ms(),
    hold: holds.hold(),
    since: startedAt,
    last: machine.memory().last,
    disk: disk.trouble(),
  });
  return openStatusFile(config.dataDir, look, (error) => disk.missed('status.json', error));
};

const openReports = async ({ config, boot, now, news, disk, log }: Life, { device, server, deployments }: Parts) => {
  const { slots, files } = device;
  const { machine, inbox, progress } = deployments;
  const steady = watchSteadyHealth({
    dir: config.dataDir,
    config,
    slots,
    files,
    log,
    install: () => machine.memory().install,
    onChange: (illness) => {
      news.emit('reported');
      if (illness !== null) void server.logs.keep(null, 'application');
    },
  });
  const slotsHealth = watchSlots(slots);
  await slotsHealth.isWell();
  const running = () => runningNow(slots);
  const reporter = openReporter({
    machine,
    link: () => server.link,
    boot,
    running,
    now,
    log,
    agent: `sluice-agent/${AGENT_VERSION}`,
    healthy: async () =>
      (await slotsHealth.isWell()) &&
      steady.illness() === null &&
      ((await slots.running()) !== null || (await running()) === null),
    attributes: () => ({
      ...attributesOf(config, inbox.refusal()),
      ...progress.attributes(),
      ...illnessOf(steady),
      ...slotsHealth.attributes(),
      ...disk.attributes(),
    }),
    progress: progress.now,
    heartbeatMs: config.heartbeatMs,
  });
  return { reporter, steady };
};
