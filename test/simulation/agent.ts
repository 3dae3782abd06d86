/**
 * One device: the real machine, inbox and reporter of the agent on simulated slots, journal and network. Only the effects are
 * performed by a thin copy of agent/perform-*.ts, since those read real files.
 */
import { type Inbox, openInbox, sameInstall } from '#agent/desired.ts';
import { type Effect, type InstallState, type Journey, outcomeOf } from '#agent/domain/install.ts';
import type { Memory } from '#agent/domain/memory.ts';
import { evidenceOf, rebuildMemory, standbyOf } from '#agent/domain/resume.ts';
import { type EventOf, type Machine, openMachine } from '#agent/machine.ts';
import { openReporter, type Reporter } from '#agent/report.ts';
import type { SlotName } from '#agent/slots/slots.ts';
import { judgeInstruction } from '#agent/trust/instruction.ts';
import type { DeviceErrorCode, Receipt, Running } from '#shared/deployment.ts';
import { Id } from '#shared/ids.ts';
import { type Desired, DesiredBatch, DesiredLeaf } from '#shared/messages.ts';
import { leafHash, verifyInclusion } from '#shared/trust/merkle.ts';
import { signPayload, verifySigned } from '#shared/trust/signed.ts';
import type { Signer } from '#shared/trust/signers.ts';
import type { Network } from './network.ts';
import { cutPower, type Disk, openSlots, type SimulatedSlots } from './slots.ts';
import type { Process } from './time.ts';
import { never, type World } from './world.ts';

/** What survives the power. */
type Durable = { records: Memory[]; seqAccepted: number; floor: number; reportSeq: number; boots: number };
export type Device = {
  id: Id;
  compatible: Id;
  signer: Signer;
  disk: Disk;
  memory: () => Memory | undefined;
  /** How far its clock is off. */
  clockOffMs: number;
  start: () => void;
  /** Cuts the power; it comes back by itself. */
  crash: () => void;
};
/** What the simulation's properties want to know of a device. */
export type Watch = {
  activating(
    device: Id,
    deployment: Id,
    verified: { seq: number; instruction: DesiredLeaf['instruction']; at: number } | null,
  ): void;
  reported(device: Id, receipt: string): void;
};
type Deps = { world: World; network: Network; director: Signer; watch: Watch };

const POLL_MS = 30_000;
const TRIAL_MS_MAX = 300_000;
const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

export const openDevice = (deps: Deps, id: Id, compatible: Id, disk: Disk): Device => {
  const { world } = deps;
  const { time } = world;
  const signer = world.signerOf(id);
  const durable: Durable = { records: [], seqAccepted: 0, floor: 0, reportSeq: 0, boots: 0 };
  const random = world.random(`agent ${id}`);
  let process: Process = { name: id, dead: true };
  let machine: Machine | undefined;

  const device: Device = {
    id,
    compatible,
    signer,
    disk,
    clockOffMs: 0,
    memory: () => machine?.memory(),
    start: () => {
      durable.boots += 1;
      process = { name: id, dead: false };
      const mine = process;
      time.within(mine, () => {
        live(deps, device, durable, mine, (opened) => {
          if (!mine.dead) machine = opened;
        }).catch((error: unknown) => world.violate(`${id}: the agent threw ${String(error)}`));
      });
    },
    crash: () => {
      if (process.dead) return;
      process.dead = true;
      machine = undefined;
      world.tell(`${id} loses its power`);
      deps.network.drop(id);
      cutPower(disk);
      if (world.options.bug === 'journal-forgets' && durable.records.length > 1) durable.records.pop();
      time.at(random.between(3_000, 60_000), undefined, device.start);
    },
  };
  return device;
};

/** One life of the agent, as in agent/main.ts. */
const live = async (
  deps: Deps,
  device: Device,
  durable: Durable,
  process: Process,
  opened: (machine: Machine) => void,
): Promise<void> => {
  const { world, network } = deps;
  const { id } = device;
  const { time } = world;
  const boot = Id.parse(`${id}-boot-${durable.boots}`);
  const crashes = world.random(`agent-crash ${id}`);
  const maybeCrash = (): boolean => {
    if (process.dead) return true;
    if (!world.has('agent-crash') || !crashes.chance(0.004)) return false;
    device.crash();
    return true;
  };
  const now = (): number => Math.max(0, time.now() + device.clockOffMs);
  world.tell(`${id} starts (${boot})`);
  const slots = openSlots(world, id, device.disk, process, maybeCrash);
  const memory = await openMemory(world, device, durable, slots, now);
  if (process.dead) return;

  const trust = openTrust(deps, device, durable, now);
  let inbox: Inbox | undefined = undefined;
  let reporter: Reporter | undefined = undefined;
  const machine = openMachine({
    memory,
    journal: { append: (next) => append(world, device, durable, process, maybeCrash, next) },
    now,
    log: silent,
    perform: (effect, state, signal) => perform(effect, state, signal),
    failureOf: (effect, error) => {
      world.violate(`${id}: ${effect} threw ${String(error)}`);
      return undefined;
    },
    recorded: async (next, previous) => {
      if (next.desiredSeq > previous.desiredSeq) durable.seqAccepted = Math.max(durable.seqAccepted, next.desiredSeq);
      durable.floor = Math.max(durable.floor, next.floor);
      const [was, is] = [previous.install, next.install];
      if (is.state !== was.state)
        world.tell(`${id} is ${is.state}${is.state === 'idle' ? '' : ` in ${is.offer.install.deployment}`}`);
      if (is.state === 'activating' && was.state === 'ready')
        deps.watch.activating(id, is.offer.install.deployment, trust.newest());
      if (is.state === 'reported' && 'receipt' in was && was.receipt !== null)
        deps.watch.reported(id, was.receipt.payload);
      reporter?.changed();
      inbox?.reconsider();
    },
  });
  opened(machine);
  const backoff = { firstMs: 1_000, maxMs: 60_000 };
  inbox = openInbox({ trust, memory: machine.memory, send: machine.send, backoff, log: silent });
  const received = inbox;
  const link = network.link(id, process);
  reporter = openReporter({
    machine,
    link: () => link,
    boot,
    agent: 'sluice-agent/simulated',
    running: () => runningNow(slots),
    healthy: async () => slots.isHealthy(),
    attributes: () => ({}),
    progress: () => null,
    now,
    heartbeatMs: 60_000,
    log: silent,
  });
  const reports = reporter;
  const perform = performer({
    deps,
    device,
    process,
    slots,
    machine,
    inbox: received,
    link,
    now,
    boot,
    onReceipt: () => reports.changed(),
  });
  durable.seqAccepted = Math.max(durable.seqAccepted, memory.desiredSeq);
  machine.send({ kind: 'restarted' });
  link.open({
    connected: () => {
      link.publish('online', { boot, online: true });
      reports.connected();
    },
    disconnected: () => reports.disconnected(),
    desired: received.receive,
    ack: reports.ack,
  });
  // As agent/poll.ts: what is wanted is asked for while there is no connection.
  setInterval(() => {
    if (link.connected()) return;
    void network.ask(id, process, 'news').then((answer) => {
      if (answer?.desired !== null && answer !== undefined) received.receive(answer.desired);
    });
  }, POLL_MS);
};

const openMemory = async (
  world: World,
  device: Device,
  durable: Durable,
  slots: SimulatedSlots,
  now: () => number,
): Promise<Memory> => {
  const isLost =
    durable.records.length > 1 && world.has('journal-lost') && world.random(`journal ${device.id}`).chance(0.1);
  const newest = isLost ? undefined : durable.records.at(-1);
  if (newest !== undefined) return { ...newest, floor: Math.max(newest.floor, durable.floor) };
  if (isLost) world.tell(`${device.id} has lost its journal`);
  const inspected = await slots.inspect();
  if (!inspected.ok) throw new Error('simulated slots can always be inspected');
  const rebuilt = rebuildMemory(inspected.view, durable.floor, now());
  if (rebuilt.revert) await slots.revert();
  // As agent/open-memory.ts: what is kept beside the journal.
  const memory = { ...rebuilt.memory, reportSeq: Math.max(rebuilt.memory.reportSeq, durable.reportSeq) };
  durable.records = [memory];
  return memory;
};

const append = async (
  world: World,
  device: Device,
  durable: Durable,
  process: Process,
  maybeCrash: () => boolean,
  next: Memory,
): Promise<void> => {
  await world.time.sleep(world.random(`journal ${device.id}`).between(1, 20));
  // A torn last record is none.
  if (maybeCrash()) return never();
  if (world.has('full-disk') && world.random(`full-disk ${device.id}`).chance(0.01))
    throw Object.assign(new Error('no space left'), { code: 'ENOSPC' });
  durable.reportSeq = Math.max(durable.reportSeq, next.reportSeq);
  durable.records = [...durable.records.slice(-4), next];
  if (maybeCrash()) return never();
  if (process.dead) return never();
  return undefined;
};

/** The director's signature, the proof, and the rules of agent/trust/instruction.ts; no TUF metadata. */
const openTrust = (deps: Deps, device: Device, durable: Durable, now: () => number) => {
  let newest: { seq: number; instruction: DesiredLeaf['instruction']; at: number } | null = null;
  return {
    newest: () => newest,
    hasRoot: () => true,
    checkDesired: async (desired: Desired) => {
      const leaf = DesiredLeaf.parse(JSON.parse(desired.leaf));
      const batch = DesiredBatch.parse(JSON.parse(desired.batch.payload));
      const hashes = desired.proof.map((hash) => Buffer.from(hash, 'hex'));
      const proven = verifyInclusion(
        leafHash(desired.leaf),
        desired.index,
        batch.size,
        hashes,
        Buffer.from(batch.root, 'hex'),
      );
      if (!proven || !verifySigned(desired.batch, deps.director.key)) {
        deps.world.violate(`${device.id}: a desired document that does not verify`);
        return { ok: false as const, code: 'INSTRUCTION_SIGNATURE' as const, message: 'it does not verify' };
      }
      const facts = { device: device.id, seqAccepted: durable.seqAccepted, time: now() };
      const judged = judgeInstruction({ leaf, batch }, facts);
      if (judged.ok && leaf.seq > (newest?.seq ?? 0))
        newest = { seq: leaf.seq, instruction: leaf.instruction, at: deps.world.time.now() };
      return judged;
    },
  };
};

const runningNow = async (slots: SimulatedSlots): Promise<Running | null> => {
  const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
  if (!inspected.ok) return null;
  const slot = running?.slot ?? inspected.view.active;
  const content = slot === null ? undefined : inspected.view.slots[slot];
  return content?.state === 'bootable' ? content.running : null;
};

type Performing = {
  deps: Deps;
  device: Device;
  process: Process;
  slots: SimulatedSlots;
  machine: Machine;
  inbox: Inbox;
  link: { connected(): boolean };
  now: () => number;
  boot: Id;
  onReceipt: () => void;
};
type InSlot = Journey & { slot: SlotName };
type Outcome = Promise<EventOf | undefined>;

const failed = (code: DeviceErrorCode, message: string): EventOf => ({ kind: 'failed', error: { code, message } });
const resultOf = (
  result: { ok: true } | { ok: false; code: DeviceErrorCode; message: string },
  event: EventOf,
): EventOf => (result.ok ? event : failed(result.code, result.message));

const performer = (all: Performing) => {
  const { slots } = all;
  const before = beforeActivation(all);
  const trial = onTrial(all);
  return async (effect: Effect, state: InstallState, signal: AbortSignal): Outcome => {
    if (effect === 'boot') {
      await slots.boot();
      return undefined;
    }
    if (state.state === 'idle') return undefined;
    switch (effect) {
      case 'check-manifest':
        return before.checkManifest(signal);
      case 'await-permission':
        return { kind: 'permitted' };
      case 'confirm-offer':
        return before.confirmOffer(signal);
      case 'sign-receipt':
        return signReceipt(all, state);
      case 'send-receipt':
        all.onReceipt();
        return undefined;
      case 'clean-up':
        return { kind: 'cleaned' };
      case 'fetch':
        return before.fetch(inSlot(state), signal);
      case 'install':
        return before.install(inSlot(state));
      case 'recheck':
        return resultOf(await slots.verify(inSlot(state).slot), { kind: 'installed' });
      case 'inspect': {
        const inspected = await slots.inspect();
        return inspected.ok ? { kind: evidenceOf(inspected.view, inSlot(state)) } : failed('PRECONDITION', 'damaged');
      }
      case 'activate':
        return trial.activate(inSlot(state));
      case 'boot-trial':
        return trial.bootTrial(inSlot(state));
      case 'watch-trial':
        return trial.watch(inSlot(state), signal);
      case 'commit': {
        const committed = await slots.commit();
        if (committed.ok && (await slots.running()) === null) await slots.boot();
        return resultOf(committed, { kind: 'committed' });
      }
      case 'revert':
        return trial.revert(inSlot(state));
      case 'verify-revert':
        return trial.verifyRevert(inSlot(state), signal);
      default:
        throw new Error(`the simulation does not know how to ${String(effect)}`);
    }
  };
};

const inSlot = (state: Journey): InSlot => {
  if (!('slot' in state)) throw new Error(`${state.state} has no slot`);
  return state;
};

const beforeActivation = ({ deps, device, process, slots, machine, inbox, now }: Performing) => {
  const { world, network } = deps;
  const random = world.random(`perform ${device.id}`);
  const pause = (attempt: number): Promise<void> =>
    world.time.sleep(random.between(500, Math.min(30_000, 1_000 * 2 ** attempt)));
  /** Something over HTTP, tried often but not for ever. */
  const insist = async (signal: AbortSignal, attemptsMax: number): Promise<boolean> => {
    for (let attempt = 0; attempt < attemptsMax && !signal.aborted; attempt += 1) {
      if ((await network.ask(device.id, process, 'news')) !== undefined) return true;
      await pause(attempt);
    }
    return false;
  };
  const checkManifest = async (signal: AbortSignal): Outcome => {
    const inspected = await slots.inspect();
    if (!inspected.ok) return failed('PRECONDITION', 'damaged');
    if (!(await insist(signal, 60))) return failed('FETCH_FAILED', 'the manifest can not be fetched');
    return { kind: 'manifest-checked', slot: standbyOf(inspected.view) };
  };
  const isInstalled = async ({ slot, offer }: InSlot): Promise<boolean> => {
    const inspected = await slots.inspect();
    if (!inspected.ok || inspected.view.trial !== null) return false;
    const content = inspected.view.slots[slot];
    const isSame = content.state === 'bootable' && content.running.manifest === offer.install.sha256;
    return isSame && (await slots.verify(slot)).ok;
  };
  const fetch = async (state: InSlot, signal: AbortSignal): Outcome => {
    if (await isInstalled(state)) return { kind: 'found-installed' };
    const prepared = await slots.prepare(state.slot);
    if (!prepared.ok) return failed(prepared.code, prepared.message);
    await world.time.sleep(random.between(2_000, 60_000));
    if (!(await insist(signal, 20))) return failed('FETCH_FAILED', 'no route');
    return { kind: 'fetched' };
  };
  const install = async (state: InSlot): Outcome => {
    const { version, sha256 } = state.offer.install;
    slots.target(version, sha256);
    const written = await slots.write(state.slot, undefined as never, sha256, []);
    if (!written.ok) return failed(written.code, written.message);
    return resultOf(await slots.verify(state.slot), { kind: 'installed' });
  };
  /** As agent/perform-install.ts: unasked nothing is activated. */
  const confirmOffer = async (signal: AbortSignal): Outcome => {
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      const current = machine.memory().install;
      if (current.state !== 'ready') return undefined;
      if (world.options.bug === 'confirmation-skipped') return { kind: 'confirmed' };
      if (now() >= current.offer.expires) return failed('INSTRUCTION_EXPIRED', 'the offer expired');
      const asked = await network.ask(device.id, process, 'confirm');
      if (signal.aborted) return undefined;
      if (asked !== undefined) {
        if (asked.desired === null) return { kind: 'withdrawn', seq: current.offer.seq };
        const leaf = DesiredLeaf.parse(JSON.parse(asked.desired.leaf));
        if (leaf.seq === current.offer.seq && sameInstall(current.offer, leaf.instruction))
          return { kind: 'confirmed' };
        inbox.receive(asked.desired);
      }
      await pause(Math.min(attempt, 5));
    }
    return undefined;
  };
  return { checkManifest, fetch, install, confirmOffer };
};

const onTrial = ({ deps, device, slots, link, now }: Performing) => {
  const { world } = deps;
  const random = world.random(`trial ${device.id}`);
  const bootTrial = async (state: InSlot): Outcome => {
    const booted = await slots.boot();
    if (booted.booted === state.slot && booted.trial) return { kind: 'booted-trial' };
    return { kind: 'booted-other', why: 'the trial has no tries left' };
  };
  const activate = async (state: InSlot): Outcome => {
    const activated = await slots.activate(state.slot, { tries: 3, deployment: state.offer.install.deployment });
    return activated.ok ? bootTrial(state) : failed(activated.code, activated.message);
  };
  const watch = async (state: InSlot, signal: AbortSignal): Outcome => {
    if (world.options.bug === 'committed-without-trial') return { kind: 'passed' };
    await world.time.sleep(random.between(5_000, 30_000));
    for (;;) {
      if (signal.aborted) return undefined;
      if (!slots.isHealthy()) return failed('SELFTEST_FAILED', 'the application is not healthy');
      if (link.connected()) return { kind: 'passed' };
      if (Math.max(0, now() - state.since) > TRIAL_MS_MAX)
        return failed('TRIAL_DEADLINE', 'no contact with the server');
      await world.time.sleep(2_000);
    }
  };
  const revert = async (state: InSlot): Outcome => {
    const reverted = await slots.revert();
    if (!reverted.ok) return failed('REVERT_FAILED', reverted.message);
    const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
    const untouched = inspected.ok && running !== null && !running.trial && running.slot === inspected.view.active;
    if (untouched && running.slot !== state.slot) return { kind: 'booted-other', why: '' };
    const booted = await slots.boot();
    return booted.booted === state.slot
      ? failed('REVERT_FAILED', 'the new version still runs')
      : { kind: 'booted-other', why: '' };
  };
  const verifyRevert = async (state: InSlot, signal: AbortSignal): Outcome => {
    for (let attempt = 0; attempt < 20 && !signal.aborted; attempt += 1) {
      const [inspected, running] = await Promise.all([slots.inspect(), slots.running()]);
      if (!inspected.ok) return failed('REVERT_FAILED', inspected.message);
      const { active, trial } = inspected.view;
      if (trial !== null || active === state.slot) return failed('REVERT_FAILED', 'the selector names the new version');
      if (running?.slot === active) return { kind: 'revert-verified' };
      await world.time.sleep(1_000);
    }
    return failed('REVERT_FAILED', 'what ran before does not come up');
  };
  return { activate, bootTrial, watch, revert, verifyRevert };
};

const signReceipt = async ({ device, slots, machine, now, boot }: Performing, journey: Journey): Outcome => {
  const { install } = journey.offer;
  const outcome = outcomeOf(journey);
  if (outcome === undefined) throw new Error(`${journey.state} has no outcome`);
  const receipt: Receipt = {
    type: 'sluice/receipt/1',
    device: device.id,
    deployment: install.deployment,
    rollout: install.rollout,
    product: install.product,
    version: install.version,
    manifest: install.sha256,
    outcome,
    ...('error' in journey ? { error: journey.error } : {}),
    running: await runningNow(slots),
    boot,
    seq: await machine.nextSeq(),
    at: now(),
  };
  return { kind: 'signed', receipt: signPayload(device.signer, receipt) };
};
