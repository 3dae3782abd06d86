/** What the agent does about deployments: hears of them, records how far it is, and performs what is next. */
import { join } from 'node:path';
import { openDataSnapshots } from './application/data-snapshot.ts';
import { openInbox } from './deployment/desired.ts';
import { readFloor, writeFloor } from './deployment/floor.ts';
import { openHolds } from './deployment/holds.ts';
import { openMachine } from './deployment/machine.ts';
import { failureOf, openPerformer } from './deployment/perform.ts';
import { tellingRefusal } from './deployment/tell-refusal.ts';
import type { Memory } from './domain/memory.ts';
import type { Life } from './life.ts';
import { tellState } from './log.ts';
import type { DeviceParts } from './open-device.ts';
import { openMemory } from './open-memory.ts';
import type { ServerSide } from './open-server-side.ts';
import { keepChecks } from './report/steady-health.ts';
import { watchContact } from './server/contact.ts';
import { openPoll } from './server/poll.ts';
import { openFetchProgress } from './transfer/fetch-progress.ts';

export type Deployments = Awaited<ReturnType<typeof openDeployments>>;

/** Nothing happens before `resume`. */
export const openDeployments = async (life: Life, device: DeviceParts, server: ServerSide) => {
  const { config, now, uptime, backoff, news, disk, log } = life;
  const { dataDir } = config;
  const { trust, http, link, membership } = server;
  const { journal, memory, makeWay } = await openMemory(dataDir, device.slots, log, now, disk.missed);
  const progress = await openFetchProgress(dataDir, news);
  const holds = openHolds({ dataDir, policy: config.consent, now, uptime, log, changed: () => news.emit('shown') });

  let [seqKept, floorKept] = [0, await readFloor(dataDir)];
  /**
   * What the journal has, once more beside it: what cannot be written now is written with the next record, or at the
   * next start.
   */
  const keepBeside = async ({ desiredSeq, floor }: Memory): Promise<void> => {
    if (desiredSeq > seqKept)
      await disk.attempt('the trust folder', async () => {
        await trust.acceptSeq(desiredSeq);
        seqKept = desiredSeq;
      });
    if (floor <= floorKept) return;
    await disk.attempt('floor.json', async () => {
      await writeFloor(dataDir, floor);
      floorKept = floor;
    });
  };
  const recorded = async (next: Memory, previous: Memory): Promise<void> => {
    await keepBeside(next);
    await progress.stateChanged(next.install, previous.install);
    if (next.install.state !== previous.install.state) news.emit('entered', tellState(log, next.install));
    news.emit('reported');
    news.emit('shown');
    inbox.reconsider();
  };
  const machine = openMachine({
    memory,
    journal,
    now,
    log,
    failureOf,
    recorded,
    perform: (effect, state, aborted) => perform(effect, state, aborted),
  });
  const lostSpreadMs = (): number => (link.connected() ? 0 : server.spread.ms());
  const inbox = openInbox({
    spreadMs: lostSpreadMs,
    trust,
    memory: machine.memory,
    send: machine.send,
    changed: () => {
      news.emit('reported');
      news.emit('shown');
      if (!link.connected()) poll.nudge();
    },
    backoff,
    log,
  });
  const poll = openPoll({
    onSpread: server.spread.learn,
    http,
    connected: link.connected,
    hurried: () => machine.memory().install.state === 'trial',
    onDesired: inbox.receive,
    onAnswer: (why) => server.trouble.set('http', why),
    tell: tellingRefusal(http, inbox.refusal),
    onStillDisconnected: membership.refresh,
    pollMs: config.pollMs,
    log,
  });
  const contact = watchContact({
    network: { serverUrl: config.serverUrl, probes: config.health.probes, proxyFor: life.proxyFor },
    connected: link.connected,
    answeredLately: poll.answeredLately,
  });
  const perform = openPerformer({
    ...life,
    ...device,
    ...server,
    holds,
    lostSpreadMs,
    folders: { data: dataDir, downloads: join(dataDir, 'downloads') },
    machine: () => machine,
    inbox: () => inbox,
    contact: contact.contact,
    data: openDataSnapshots(dataDir),
    onProgress: progress.made,
    onReceipt: () => news.emit('reported'),
    keepLog: server.logs.keep,
    keepChecks: (manifest, sha256) => keepChecks(dataDir, manifest, sha256),
  });

  return {
    machine,
    inbox,
    poll,
    holds,
    progress,
    /** Lets go of what can be fetched or written again. */
    makeWay: () => makeWay(machine.memory().install),
    /** Goes on where the last life ended. */
    resume: async (): Promise<void> => {
      await keepBeside(memory);
      machine.send({ kind: 'restarted' });
    },
    stop: async (): Promise<void> => {
      inbox.stop();
      // All at once: what goes on is called off now, not when the others have ended.
      await Promise.all([machine.stop(), poll.stop(), contact.stop()]);
      await journal.close();
    },
  };
};
