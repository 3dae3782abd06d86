/**
 * One life of an agent: the parts of agent/main.ts, from its start to its death, on an explored device. Simulated are
 * the network, the trust store and applications.
 */

import type { Application, ApplicationExit, Supervisor } from '#agent/application/supervisor.ts';
import { leafOf, openInbox } from '#agent/deployment/desired.ts';
import { writeFloor } from '#agent/deployment/floor.ts';
import { type Machine, openMachine } from '#agent/deployment/machine.ts';
import { failureOf, openPerformer } from '#agent/deployment/perform.ts';
import { runningNow } from '#agent/deployment/perform-parts.ts';
import type { Slots } from '#agent/domain/slots.ts';
import { openMemory } from '#agent/open-memory.ts';
import { openReporter } from '#agent/report/report.ts';
import { openFleetTime } from '#agent/server/fleet-time.ts';
import { identityOf } from '#agent/server/identity.ts';
import { Id } from '#shared/ids.ts';
import { DesiredLeaf } from '#shared/messages.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { PLAIN, PLAIN_CONFIG } from '#test/simulation/agent-parts.ts';
import type { Process, Time } from '#test/simulation/time.ts';
import { COMPATIBLE, DATA, type Device } from './device.ts';
import { log } from './log.ts';
import type { Release } from './releases.ts';
import type { Server } from './server.ts';

export const DEVICE = Id.parse('gw-1');
const BACKOFF = { firstMs: 200, maxMs: 2_000 };
export type Wrap = (slots: Slots) => Slots;

export type LifeOptions = {
  time: Time;
  device: Device;
  server: Server;
  signer: Signer;
  release: Release;
  boot: Id;
  process: Process;
  /** An application is started: which version, and whether on trial. */
  onStart: (application: Application) => void;
  /** Puts a bug between the agent and its slots. */
  wrap: Wrap;
};

/** Applications that run forever. */
const openSupervisor = (onStart: (application: Application) => void): Supervisor => {
  let application: Application | null = null;
  const listeners = new Set<(exit: ApplicationExit) => void>();
  return {
    start: async (next) => {
      application = next;
      onStart(next);
      return { ok: true };
    },
    running: () => (application === null ? null : { slot: application.slot, pid: 2, ranMs: 0 }),
    keepRunning: () => {
      if (application !== null) application = { ...application, onExit: 'restart' };
    },
    listen: (listener) => {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    lastOutput: async () => '',
    stop: async () => {
      application = null;
    },
  };
};

/** Resolves when it is up; it lives on as long as its process does. */
export const live = async (options: LifeOptions): Promise<{ machine: Machine; slots: Slots }> => {
  const { time, device, server, boot, release } = options;
  const now = (): number => time.now();
  const supervisor = openSupervisor(options.onStart);
  const slots = options.wrap(await device.openSlots(supervisor));
  const { journal, memory } = await openMemory(DATA, slots, log, now);
  const trust = {
    hasRoot: () => true,
    time: now,
    checkDesired: async (desired: Parameters<typeof leafOf>[0]) => ({
      ok: true as const,
      value: DesiredLeaf.parse(leafOf(desired)),
    }),
    checkManifest: async () => ({ ok: true as const, value: { manifest: release.manifest, bytes: release.bytes } }),
  };
  const machine: Machine = openMachine({
    memory,
    journal,
    now,
    log,
    failureOf,
    perform: (effect, state, aborted) => perform(effect, state, aborted),
    recorded: async (next, previous) => {
      if (next.floor > previous.floor) await writeFloor(DATA, next.floor);
      reporter.changed();
      inbox.reconsider();
    },
  });
  const inbox = openInbox({ trust, memory: machine.memory, send: machine.send, backoff: BACKOFF, log });
  const reporter = openReporter({
    machine,
    link: () => link,
    boot,
    agent: 'sluice-agent/explored',
    running: () => runningNow(slots),
    healthy: async () => true,
    attributes: () => ({}),
    progress: () => null,
    now,
    heartbeatMs: 60_000,
    log,
  });
  const perform = openPerformer({
    config: {
      compatible: COMPATIBLE,
      ...PLAIN_CONFIG,
      application: { stopMs: 100, limits: {} },
      keepArtifacts: 'raw',
    },
    folders: { data: DATA, downloads: `${DATA}/downloads` },
    boot,
    slots,
    supervisor,
    trust,
    http: server.http,
    identity: identityOf(options.signer, DEVICE, false),
    machine: () => machine,
    inbox: () => inbox,
    contact: () => (link.connected() ? { reach: 'broker' } : { reach: 'unknown' }),
    spread: { ms: () => 0 },
    lostSpreadMs: () => 0,
    ...PLAIN,
    onReceipt: () => reporter.changed(),
    now,
    uptime: async () => ({ bootId: 'explored', uptimeMs: now() }),
    time: openFleetTime({ wall: now, monotonic: () => performance.now(), earliest: () => 0, trusted: now }),
    log,
    backoff: BACKOFF,
  });
  machine.send({ kind: 'restarted' });
  const link = server.connect(boot, {
    connected: () => reporter.connected(),
    desired: inbox.receive,
    ack: reporter.ack,
  });
  return { machine, slots };
};
