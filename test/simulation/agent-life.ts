/**
 * One life of an agent, put together as in agent/main.ts from the same parts: journal, machine, effects, health, inbox,
 * reporter and poll are the real ones. Simulated are what they stand on: slots and application, drive, network, and the
 * trust store's metadata.
 */
import { type Inbox, openInbox } from '#agent/deployment/desired.ts';
import { writeFloor } from '#agent/deployment/floor.ts';
import { type Machine, openMachine } from '#agent/deployment/machine.ts';
import { failureOf, openPerformer } from '#agent/deployment/perform.ts';
import { runningNow } from '#agent/deployment/perform-parts.ts';
import { openMemory } from '#agent/open-memory.ts';
import { openReporter, type Reporter } from '#agent/report/report.ts';
import { openFleetTime } from '#agent/server/fleet-time.ts';
import { identityOf } from '#agent/server/identity.ts';
import { openPoll } from '#agent/server/poll.ts';
import type { Id } from '#shared/ids.ts';
import { TIME_ZONE_ATTRIBUTE } from '#shared/windows.ts';
import type { Device, DeviceDeps } from './agent.ts';
import { openHttpFor, openTrust, PLAIN, PLAIN_CONFIG } from './agent-parts.ts';
import { acknowledgedByDeployment } from './planted-agent.ts';
import { openSlots } from './slots.ts';
import type { Process } from './time.ts';

const POLL_MS = 30_000;
const BACKOFF = { firstMs: 1_000, maxMs: 60_000 };
const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

export const live = async (
  deps: DeviceDeps,
  device: Device,
  accepted: { seq: number },
  process: Process,
  boot: Id,
  opened: (machine: Machine) => void,
): Promise<void> => {
  const { world, network } = deps;
  const { id, drive } = device;
  const maybeCrash = crashesOf(deps, device, process);
  const now = (): number => Math.max(0, world.time.now() + device.clockOffMs);
  const startedAt = world.time.now();
  world.tell(`${id} starts (${boot})`);
  attachDrive(deps, device, process, maybeCrash);
  const slots = openSlots(world, id, device.disk, process, maybeCrash);
  const trust = openTrust(deps, device, accepted, process, now);
  const time = openFleetTime({
    wall: now,
    monotonic: () => performance.now(),
    earliest: trust.earliest,
    trusted: trust.time,
  });
  const { journal, memory } = await openMemory(drive.folder, slots, log, now);
  if (process.dead) return;

  const link = network.link(id, process);
  const planted =
    world.options.bug === 'acknowledged-by-deployment' ? acknowledgedByDeployment(link, () => machine) : undefined;
  const machine: Machine = openMachine({
    memory,
    journal,
    now,
    log,
    failureOf: (effect, error) => {
      world.tell(`${id}: ${effect} threw ${String(error)}`);
      return failureOf(effect, error);
    },
    perform: async (effect, state, aborted) => {
      const { bug } = world.options;
      if (bug === 'committed-without-trial' && effect === 'watch-trial') return { kind: 'passed' };
      if (bug === 'confirmation-skipped' && effect === 'confirm-offer') return { kind: 'confirmed' };
      return perform(effect, state, aborted);
    },
    recorded: async (next, previous) => {
      if (next.desiredSeq > previous.desiredSeq) accepted.seq = Math.max(accepted.seq, next.desiredSeq);
      if (next.floor > previous.floor) await writeFloor(drive.folder, next.floor);
      const [was, is] = [previous.install, next.install];
      if (is.state !== was.state)
        world.tell(`${id} is ${is.state}${is.state === 'idle' ? '' : ` in ${is.offer.install.deployment}`}`);
      if (is.state === 'activating' && was.state === 'ready')
        deps.watch.activating(device, is.offer.install.deployment, trust.newest());
      if (is.state === 'reported' && 'receipt' in was && was.receipt !== null)
        deps.watch.reported(id, was.receipt.payload);
      reporter.changed();
      inbox.reconsider();
    },
  });
  opened(machine);
  const inbox: Inbox = openInbox({ trust, memory: machine.memory, send: machine.send, backoff: BACKOFF, log });
  const reporter: Reporter = openReporter({
    machine,
    link: () => planted?.link ?? link,
    boot,
    agent: 'sluice-agent/simulated',
    running: () => runningNow(slots),
    healthy: async () => slots.isHealthy(),
    attributes: () => ({ [TIME_ZONE_ATTRIBUTE]: device.timeZone }),
    progress: () => null,
    now,
    heartbeatMs: 60_000,
    log,
  });
  const poll = openPoll({
    http: openHttpFor(deps, id, process, 'news'),
    connected: () => link.connected(),
    hurried: () => machine.memory().install.state === 'trial',
    onDesired: inbox.receive,
    onStillDisconnected: async () => {},
    pollMs: POLL_MS,
    log,
  });
  const perform = openPerformer({
    config: {
      compatible: device.compatible,
      ...PLAIN_CONFIG,
      application: { stopMs: 5_000, limits: {} },
      keepArtifacts: 'none',
    },
    folders: { data: drive.folder, downloads: `${drive.folder}/downloads` },
    boot,
    slots,
    supervisor: slots.supervisor,
    trust,
    http: openHttpFor(deps, id, process, 'confirm'),
    identity: identityOf(device.signer, id, false),
    machine: () => machine,
    inbox: () => inbox,
    contact: () =>
      link.connected() ? { reach: 'broker' } : poll.answeredLately() ? { reach: 'http' } : { reach: 'unknown' },
    spread: { ms: () => 0 },
    lostSpreadMs: () => 0,
    ...PLAIN,
    onReceipt: () => reporter.changed(),
    now,
    uptime: async () => ({ bootId: boot, uptimeMs: world.time.now() - startedAt }),
    time,
    log,
    backoff: BACKOFF,
  });
  accepted.seq = Math.max(accepted.seq, memory.desiredSeq);
  machine.send({ kind: 'restarted' });
  link.open({
    connected: () => {
      link.publish('online', { boot, online: true });
      reporter.connected();
    },
    disconnected: () => reporter.disconnected(),
    desired: inbox.receive,
    ack: (ack) => {
      planted?.ack(ack);
      reporter.ack(ack);
    },
  });
};

/** The power may fail at any record and any operation. */
const crashesOf = ({ world }: DeviceDeps, device: Device, process: Process): (() => boolean) => {
  const crashes = world.random(`agent-crash ${device.id}`);
  return () => {
    if (process.dead) return true;
    if (!world.strikes('agent-crash', crashes, 0.002)) return false;
    device.crash();
    return true;
  };
};

const attachDrive = ({ world }: DeviceDeps, device: Device, process: Process, maybeCrash: () => boolean): void => {
  const latency = world.random(`drive ${device.id}`);
  const fullness = world.random(`full-disk ${device.id}`);
  device.drive.attach({
    process,
    maybeCrash,
    isFull: () => world.strikes('full-disk', fullness, 0.005),
    latency: () => world.time.sleep(latency.between(0, 8)),
  });
};
