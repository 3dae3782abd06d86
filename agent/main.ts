/** The agent: puts its parts together and runs them until it is told to stop. Also a program of its own: `node agent/main.ts --help`. */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { Id } from '#shared/ids.ts';
import { AgentStopped } from './agent-stopped.ts';
import { openApplicationFiles } from './application-files.ts';
import { attributesOf, illnessOf } from './attributes.ts';
import type { AgentConfig } from './config.ts';
import { watchContact } from './contact.ts';
import { openDataSnapshots } from './data-snapshot.ts';
import { openInbox } from './desired.ts';
import type { Backoff } from './domain/retry.ts';
import { readEnrolled, refreshEnrolled, trustedRoot } from './enrol.ts';
import { openFleetTime } from './fleet-time.ts';
import { writeFloor } from './floor.ts';
import { lockFolder } from './folder-lock.ts';
import { openHolds } from './holds.ts';
import { openHttp, openServerClock } from './http.ts';
import { openIdentity } from './identity.ts';
import { enrolOrStop, pinRoot } from './join-fleet.ts';
import { openKeptLogs } from './kept-logs.ts';
import { findOwner, type ProcessOwner } from './limits.ts';
import { type Link, openLink } from './link.ts';
import { type LocalApi, openLocalApi } from './local-api.ts';
import { makeAgentLog, tellState } from './log.ts';
import { openMachine } from './machine.ts';
import { openMemory } from './open-memory.ts';
import { everyMs, untilAborted } from './pace.ts';
import { failureOf, openPerformer } from './perform.ts';
import { runningNow } from './perform-parts.ts';
import { openPoll } from './poll.ts';
import { runProgram } from './program.ts';
import { keepRecentLines, type RecentLines } from './recent-lines.ts';
import { openReporter } from './report.ts';
import { bootingItself } from './self-update.ts';
import { openServiceManager } from './service-manager.ts';
import { openSlots } from './slots/open-slots.ts';
import { watchSlots } from './slots/slots-health.ts';
import { openStatusFile } from './status-file.ts';
import { keepChecks, watchSteadyHealth } from './steady-health.ts';
import { openSupervisor } from './supervisor.ts';
import { openLastTransfer } from './transfer/last-transfer.ts';
import type { Progress } from './transfer/transfer.ts';
import { openDeviceTrust } from './trust/device-trust.ts';
import { inTurns } from './turns.ts';
import { AGENT_VERSION, BUILD_TIME } from './version.ts';

const OBJECT_BACKOFF_MS_MAX = 60_000;
const APPLICATION_LOG_BYTES_MAX = 24 * 1024;
const AGENT_LOG_CHARS_MAX = 12 * 1024;
const PROGRESS_REPORT_MS = 5_000;
const PROGRESS_STATUS_MS = 500;

/**
 * Runs until `signal` is aborted, then stops the application and returns. Throws `AgentStopped` when it can not go on: the folder is
 * taken, nobody is trusted, or the server refused the enrolment for good. Before that the application runs whenever it can.
 */
export const runAgent = async (config: AgentConfig, signal: AbortSignal): Promise<void> => {
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 });
  const recent = keepRecentLines(AGENT_LOG_CHARS_MAX);
  const log = await makeAgentLog(config.log, config.device, recent.add);
  const lock = await lockFolder(config.dataDir);
  if (!lock.ok) throw new AgentStopped(lock.detail);
  try {
    await runLocked(config, log, recent, signal);
  } finally {
    await lock.value.release();
    log.flush();
  }
};

const runLocked = async (config: AgentConfig, log: Logger, recent: RecentLines, stop: AbortSignal): Promise<void> => {
  const { dataDir, device } = config;
  const enrolled = await readEnrolled(dataDir, config);
  const trusted = trustedRoot(config);
  if (!trusted.ok && enrolled === undefined) throw new AgentStopped(trusted.detail);
  const identity = await openIdentity(dataDir, device).catch((error: unknown) => {
    throw new AgentStopped(error instanceof Error ? error.message : String(error), { cause: error });
  });
  const now = Date.now;
  const boot = Id.parse(`b${randomBytes(8).toString('hex')}`);
  const clock = openServerClock(now);
  const http = openHttp({
    serverUrl: config.serverUrl,
    login: (at) => identity.login(at),
    clock,
    now,
    bandwidth: config.bandwidth,
    cacheUrl: config.cacheUrl,
    blocks: () => (connected() ? link?.blocks : undefined),
    log,
  });
  log.info(
    { event: 'agent-started', boot, version: AGENT_VERSION },
    `agent ${AGENT_VERSION} of ${device} in ${dataDir}`,
  );

  const owner = await ownerOf(config);
  const files = await openApplicationFiles(config, owner, log);
  const supervisor = await openSupervisor({
    environment: files.environment,
    limits: config.application.limits,
    owner,
    dir: await folder(dataDir, 'supervisor'),
    stopMs: config.application.stopMs,
    ...(config.application.port === undefined ? {} : { port: config.application.port }),
  });
  const relaunching = new AbortController();
  const signal = AbortSignal.any([stop, relaunching.signal]);
  const slots = await bootingItself(await openSlots(config, { supervisor, log }), {
    dataDir,
    env: process.env,
    program: process.argv[1] ?? '',
    relaunch: () => relaunching.abort(),
    log,
  });
  const trust = inTurns(
    await openDeviceTrust({
      dir: await folder(dataDir, 'trust'),
      device,
      fetch: { get: http.getBytes },
      now,
      buildTime: BUILD_TIME,
    }),
  );
  const time = openFleetTime({
    wall: now,
    monotonic: () => performance.now(),
    earliest: () => trust.earliest(),
    trusted: () => trust.time(),
  });
  const { journal, memory } = await openMemory(dataDir, slots, log, now);
  const backoff: Backoff = {
    firstMs: config.reconnect.firstMs,
    maxMs: Math.min(config.reconnect.maxMs, OBJECT_BACKOFF_MS_MAX),
  };

  const startedAt = now();
  let link: Link | undefined;
  let local: LocalApi | undefined;
  const lastTransfer = await openLastTransfer(dataDir);
  let progress: Progress | null = null;
  let mqttUrl = config.mqttUrl ?? enrolled?.mqttUrl ?? '';
  const connected = (): boolean => link?.connected() === true;
  const running = () => runningNow(slots);

  const machine = openMachine({
    memory,
    journal,
    now,
    log,
    failureOf,
    perform: (effect, state, aborted) => perform(effect, state, aborted),
    recorded: async (next, previous) => {
      if (next.desiredSeq > previous.desiredSeq) await trust.acceptSeq(next.desiredSeq);
      if (next.floor > previous.floor) await writeFloor(dataDir, next.floor);
      if (previous.install.state === 'fetching' && progress !== null) await lastTransfer.ended(progress);
      if (next.install.state === 'idle') progress = null;
      if (next.install.state !== previous.install.state) manager.says(tellState(log, next.install));
      reporter.changed();
      status.changed();
      inbox.reconsider();
    },
  });
  const manager = openServiceManager({ env: process.env, writingMs: machine.writingMs, log });
  const inbox = openInbox({ trust, memory: machine.memory, send: machine.send, backoff, log });
  const logs = await openKeptLogs({
    dir: await folder(dataDir, 'kept-logs'),
    boot,
    last: { application: () => supervisor.lastOutput(APPLICATION_LOG_BYTES_MAX), agent: recent.last },
    secrets: files.secrets,
    link: () => link,
    http,
    backoff,
    now,
    log,
  });
  const slotsHealth = watchSlots(slots);
  await slotsHealth.isWell();
  const reporter = openReporter({
    machine,
    link: () => link ?? { connected: () => false, publish: () => false },
    boot,
    agent: `sluice-agent/${AGENT_VERSION}`,
    running,
    healthy: async () =>
      (await slotsHealth.isWell()) &&
      steady.illness() === null &&
      ((await slots.running()) !== null || (await running()) === null),
    attributes: () => ({
      ...attributesOf(config, inbox.refusal()),
      ...lastTransfer.attributes(),
      ...illnessOf(steady),
      ...slotsHealth.attributes(),
    }),
    progress: () => progress,
    now,
    heartbeatMs: config.heartbeatMs,
    log,
  });
  const status = openStatusFile(dataDir, async () => ({
    device,
    at: now(),
    progress,
    running: await running(),
    connected: connected(),
    refusal: inbox.refusal(),
    install: machine.memory().install,
    hold: holds.hold(),
    since: startedAt,
    last: machine.memory().last,
  }));
  const holds = openHolds({ dataDir, policy: config.consent, now, log, changed: () => status.changed() });
  const reportProgress = everyMs(PROGRESS_REPORT_MS, () => reporter.changed());
  const showProgress = everyMs(PROGRESS_STATUS_MS, () => status.changed());
  const poll = openPoll({
    http,
    connected,
    hurried: () => machine.memory().install.state === 'trial',
    onDesired: inbox.receive,
    onStillDisconnected: async () => {
      if (config.mqttUrl !== undefined || mqttUrl === '') return;
      mqttUrl = (await refreshEnrolled(enrolOptions))?.mqttUrl ?? mqttUrl;
    },
    pollMs: config.pollMs,
    log,
  });
  const steady = watchSteadyHealth({
    dir: dataDir,
    config,
    slots,
    files,
    install: () => machine.memory().install,
    onChange: (illness) => {
      reporter.changed();
      if (illness !== null) void logs.keep(null, 'application');
    },
    log,
  });
  const contact = watchContact({
    network: { serverUrl: config.serverUrl, probes: config.health.probes },
    connected,
    answeredLately: poll.answeredLately,
  });
  const perform = openPerformer({
    config,
    folders: { data: dataDir, downloads: join(dataDir, 'downloads') },
    boot,
    slots,
    supervisor,
    trust,
    http,
    identity,
    machine: () => machine,
    inbox: () => inbox,
    contact: contact.contact,
    data: openDataSnapshots(dataDir),
    files,
    holds,
    onProgress: (next) => {
      progress = next;
      reportProgress();
      showProgress();
    },
    onReceipt: () => reporter.changed(),
    keepLog: logs.keep,
    keepChecks: (manifest, sha256) => keepChecks(dataDir, manifest, sha256),
    now,
    time,
    log,
    backoff,
  });
  const enrolOptions = { dir: dataDir, config, identity, http, clock, now, log, backoff: config.reconnect, signal };

  try {
    if (machine.memory().desiredSeq > 0) await trust.acceptSeq(machine.memory().desiredSeq);
    machine.send({ kind: 'restarted' });
    manager.ready();
    local = await openLocalApi({
      socket: config.local.socket ?? join(dataDir, 'agent.sock'),
      mode: Number.parseInt(config.local.mode, 8),
      status,
      holds,
      log,
    });
    const member = enrolled ?? (await enrolOrStop(enrolOptions));
    mqttUrl = config.mqttUrl ?? member.mqttUrl;
    await pinRoot(trust, member, log, backoff, signal);
    inbox.reconsider();
    link = openLink({
      url: () => mqttUrl,
      device,
      login: () => identity.login(clock.now()),
      boot,
      backoff: config.reconnect,
      log,
      on: {
        connected: () => {
          reporter.connected();
          status.changed();
        },
        disconnected: (refused) => {
          reporter.disconnected();
          status.changed();
          if (refused) poll.nudge();
        },
        desired: inbox.receive,
        ack: reporter.ack,
        logAck: logs.acknowledged,
      },
    });
    await untilAborted(signal);
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    log.info({ event: 'agent-stopping' }, 'stopping');
    await manager.stopping();
    await local?.stop();
    inbox.stop();
    reporter.stop();
    await poll.stop();
    await contact.stop();
    await steady.stop();
    await logs.stop();
    await machine.stop();
    await link?.stop();
    await slots.stop();
    await status.settled();
    await journal.close();
  }
};

const ownerOf = async ({ application: { user, group } }: AgentConfig): Promise<ProcessOwner | null> => {
  if (user === undefined) return null;
  const found = await findOwner({ user, group });
  if (!found.ok) throw new AgentStopped(found.message);
  return found.owner;
};

const folder = async (dataDir: string, name: string): Promise<string> => {
  const dir = join(dataDir, name);
  await mkdir(dir, { recursive: true });
  return dir;
};

if (import.meta.main) await runProgram(runAgent);
