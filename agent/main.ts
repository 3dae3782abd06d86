/**
 * The agent: puts its parts together and runs them until it is told to stop. Also a program of its own: `node
 * agent/main.ts --help`.
 */
import { mkdir, stat } from 'node:fs/promises';
import type { Logger } from 'pino';
import type { AgentConfig } from './config/config.ts';
import { AGENT_VERSION } from './config/version.ts';
import { removeLeftovers } from './deployment/make-way.ts';
import { lockFolder } from './disk/folder-lock.ts';
import { watchComingUp } from './launch/coming-up.ts';
import { giveMemoryBack } from './launch/give-memory-back.ts';
import { runProgram } from './launch/program.ts';
import { beginLife, type Life } from './life.ts';
import { makeAgentLog } from './log.ts';
import { type Deployments, openDeployments } from './open-deployments.ts';
import { openDevice } from './open-device.ts';
import { openReporting, type Reporting } from './open-reporting.ts';
import { openServerSide, type ServerSide } from './open-server-side.ts';
import { AgentStopped } from './process/agent-stopped.ts';
import { leftBehind } from './process/bounded-child.ts';
import { keepGoing } from './process/keep-going.ts';
import { storageRefusal } from './process/system-error.ts';
import { keepRecentLines, type RecentLines } from './report/recent-lines.ts';
import { readEnrolled, trustedRoot } from './server/enrol.ts';
import { openIdentity } from './server/identity.ts';
import { readKnownRoot } from './server/known-root.ts';
import { openProxies } from './server/proxies.ts';

const AGENT_LOG_CHARS_MAX = 12 * 1024;

/**
 * Runs until `signal` is aborted, then stops the application and returns. Throws `AgentStopped` when it cannot go on:
 * the folder is taken, no one is trusted, or the server refused the enrolment for good. Before that the application
 * runs whenever it can.
 */
export const runAgent = async (config: AgentConfig, signal: AbortSignal): Promise<void> => {
  await makeDataFolder(config.dataDir);
  const recent = keepRecentLines(AGENT_LOG_CHARS_MAX);
  const log = await makeAgentLog(config.log, config.device, recent.add);
  const lock = await lockFolder(config.dataDir);
  if (!lock.ok) throw new AgentStopped(lock.detail);
  const letGo = keepGoing(log);
  try {
    await runLocked(config, log, recent, signal);
  } finally {
    letGo();
    await lock.value.release();
    log.flush();
  }
};

/** One that is there already does for a disk that cannot be written. */
const makeDataFolder = async (dir: string): Promise<void> => {
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    const isThere = await stat(dir).then(
      (there) => there.isDirectory(),
      () => false,
    );
    if (!isThere) throw new AgentStopped(storageRefusal(error, `the data folder ${dir} cannot be made`).message);
  }
};

const runLocked = async (config: AgentConfig, log: Logger, recent: RecentLines, stop: AbortSignal): Promise<void> => {
  const { proxyFor, problems } = openProxies(config, process.env);
  for (const problem of problems) log.warn({ event: 'proxy-unusable' }, problem);
  const life = beginLife(config, proxyFor, log);
  leftBehind.on('left', ({ command, group }) =>
    log.error({ event: 'process-left-behind', pid: group }, `cannot be killed, and is left behind: ${command}`),
  );
  await removeLeftovers(config.dataDir);
  const known = { ...(await readIdentity(life)), recent };
  log.info(
    { event: 'agent-started', boot: life.boot, version: AGENT_VERSION },
    `agent ${AGENT_VERSION} of ${config.device} in ${config.dataDir}`,
  );
  // Each part knows only those before it; what it has to tell those after it is `life.news`.
  const device = await openDevice(life);
  const signal = AbortSignal.any([stop, device.relaunched]);
  const server = await openServerSide(life, known, device, signal);
  const deployments = await openDeployments(life, device, server);
  const reporting = await openReporting(life, { device, server, deployments });
  const comingUp = watchComingUp({
    dataDir: config.dataDir,
    env: process.env,
    contact: () => server.link.connected() || deployments.poll.answeredLately(),
  });
  try {
    // The application runs before anything is asked of a server.
    await deployments.resume();
    await reporting.begin();
    await life.disk.watch({
      onChange: () => {
        life.news.emit('reported');
        life.news.emit('shown');
      },
      onFull: deployments.makeWay,
    });
    await server.membership.join();
    // Before it has a root it acts on nothing, and says so.
    connect(life, server, deployments, reporting);
    await server.membership.pinRoot();
    deployments.inbox.reconsider();
    giveMemoryBack(signal);
    await untilAborted(signal);
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    log.info({ event: 'agent-stopping' }, 'stopping');
    life.disk.stop();
    // The application is asked to end at once, whatever an installation still has to wait for.
    await Promise.all([reporting.stop(), deployments.stop(), device.slots.stop()]);
    await server.stop();
    if (stop.aborted) await comingUp.stopped();
    // What went on until it was called off may have started it once more.
    await device.slots.stop();
    await reporting.status.settled();
  }
};

/** Who the device is, and its fleet as far as it had joined one before. */
const readIdentity = async ({ config, disk }: Life) => {
  const enrolled = await readEnrolled(config.dataDir, config);
  const root = await readKnownRoot(config.dataDir);
  const trusted = trustedRoot(config);
  if (!trusted.ok && root === undefined) throw new AgentStopped(trusted.detail);
  const identity = await openIdentity(config.dataDir, config.device, disk).catch((error: unknown) => {
    throw new AgentStopped(error instanceof Error ? error.message : String(error), { cause: error });
  });
  return { identity, enrolled, root };
};

const connect = (
  { config, boot, proxyFor, log }: Life,
  { link, membership, identity, clock, logs, spread, trouble }: ServerSide,
  { inbox, machine, poll }: Deployments,
  { reporter, status }: Reporting,
): void =>
  link.open({
    url: membership.mqttUrl,
    device: config.device,
    login: () => identity.login(clock.now()),
    boot,
    backoff: config.reconnect,
    // What is on trial needs its server soon.
    spreadMs: () => (machine.memory().install.state === 'trial' ? 0 : spread.ms()),
    proxyFor,
    log,
    on: {
      connected: () => {
        trouble.set('mqtt', null);
        reporter.connected();
        status.changed();
      },
      disconnected: (refused, why) => {
        trouble.set('mqtt', why);
        reporter.disconnected();
        status.changed();
        if (refused) poll.nudge();
      },
      desired: inbox.receive,
      ack: (ack) => {
        spread.learn(ack.spreadMs);
        reporter.ack(ack);
      },
      logAck: logs.acknowledged,
    },
  });

if (import.meta.main) void runProgram(runAgent);

export const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
