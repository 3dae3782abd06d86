/**
 * An agent that the launcher started boots the agent of a slot together with its application: where that is another
 * agent than this one, it ends, and is started as that. All else is as with every other release: the trial, its health,
 * the commit or the revert.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { Id, Sha256 } from '#shared/ids.ts';
import type { Slots, SlotsView } from '../domain/slots.ts';
import type { Log } from '../log.ts';
import { asFarAsPossible } from '../process/system-error.ts';
import { agentOf, LAUNCH_ENVIRONMENT } from './launch.ts';

export type SelfUpdateOptions = {
  dataDir: string;
  env: Record<string, string | undefined>;
  /** The file that runs. */
  program: string;
  /** Ends this process gracefully; what keeps it running starts the launcher again. */
  relaunch(): void;
  log: Log;
};

/** The very same slots when this agent was not started by the launcher. */
export const bootingItself = async (slots: Slots, options: SelfUpdateOptions): Promise<Slots> => {
  const { dataDir, env, log } = options;
  const builtIn = env[LAUNCH_ENVIRONMENT.builtIn];
  if (builtIn === undefined) return slots;
  const self = await digestOf(options.program);
  const endFallenTrial = async (): Promise<void> => {
    const inspected = await slots.inspect();
    if (!inspected.ok || inspected.view.trial?.deployment !== fellBack) return;
    const reverted = await slots.revert();
    if (!reverted.ok) log.error({ event: 'revert-failed', code: reverted.code }, reverted.message);
  };
  const fellBack = Id.safeParse(env[LAUNCH_ENVIRONMENT.fellBack]).data;
  if (fellBack !== undefined) {
    log.error(
      { event: 'agent-fell-back', deployment: fellBack },
      'the agent of the version on trial did not come up in time: going back',
    );
    await endFallenTrial();
  }
  const gaveWay = Sha256.safeParse(env[LAUNCH_ENVIRONMENT.gaveWay]).data;
  if (gaveWay !== undefined)
    log.error({ event: 'agent-gave-way', manifest: gaveWay }, 'the agent of what is committed does not come up');

  /**
   * What the launcher has chosen by, moments ago. It is asked again only about another: two that disagree would start
   * each other without end.
   */
  const decided = await selectionOf(slots);

  /** Undefined where the slots decide without an agent of theirs. */
  const dueAgent = async (): Promise<Sha256 | undefined> => {
    const inspected = await slots.inspect();
    if (!inspected.ok || selectionIn(inspected.view) === decided) return undefined;
    const { active, trial } = inspected.view;
    const onTrial = trial !== null && trial.triesLeft > 0 ? await agentOf(dataDir, trial.slot, builtIn) : undefined;
    if (onTrial !== undefined) return digestOf(onTrial);
    const content = active === null ? undefined : inspected.view.slots[active];
    if (active === null || (content?.state === 'bootable' && content.running.manifest === gaveWay)) return undefined;
    const file = await agentOf(dataDir, active, builtIn);
    return file === undefined ? undefined : digestOf(file);
  };

  const endTrial = async <T extends { ok: boolean }>(result: T): Promise<T> => {
    // Where it stays, the guard kills an agent once more, and the launcher starts it again.
    if (result.ok) await asFarAsPossible(rm(join(dataDir, 'agent-trial'), { force: true }));
    return result;
  };

  return {
    ...slots,
    activate: async (slot, trial) =>
      trial.deployment === fellBack
        ? { ok: false, code: 'TRIAL_CRASHED', message: 'the agent of this version did not come up in time' }
        : slots.activate(slot, trial),
    boot: async (signal) => {
      // Not while it could not be forgotten: in this life it is over.
      if (fellBack !== undefined) await endFallenTrial();
      const due = await dueAgent();
      if (due === undefined || due === self) return slots.boot(signal, fellBack);
      log.info({ event: 'agent-relaunched', agent: due }, 'another agent belongs to what boots now: it is started');
      options.relaunch();
      // Nothing that happens until then is for this agent to judge.
      return untilEnd(signal);
    },
    commit: async () => endTrial(await slots.commit()),
    revert: async () => endTrial(await slots.revert()),
  };
};

/** Which version boots: of a trial its tries do not matter. */
const selectionIn = ({ active, trial }: Pick<SlotsView, 'active' | 'trial'>): string =>
  `${active} ${trial === null ? '' : `${trial.slot} ${trial.deployment}`}`;
const selectionOf = async (slots: Slots): Promise<string | undefined> => {
  const inspected = await slots.inspect();
  return inspected.ok ? selectionIn(inspected.view) : undefined;
};

/** Piece by piece: a program has a hundred megabytes. */
const digestOf = async (file: string): Promise<Sha256> => {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return Sha256.parse(hash.digest('hex'));
};

const untilEnd = (signal: AbortSignal | undefined): ReturnType<Slots['boot']> =>
  new Promise((resolve) => {
    const end = (): void => resolve({ booted: null, why: 'the agent is started again' });
    if (signal?.aborted === true) end();
    signal?.addEventListener('abort', end, { once: true });
  });
