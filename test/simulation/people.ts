/** Those who plan rollouts and steer them, at random, through the server's real flows. */

import { auditLine } from '#server/domain/audit.ts';
import type { Channel } from '#server/domain/release/channel.ts';
import { acceptDevice, rejectDevice } from '#server/flow/device/admit-device.ts';
import { approveRelease, reportCheck } from '#server/flow/release/promote-release.ts';
import { promoteRelease } from '#server/flow/release/stage-release.ts';
import { adoptDrift, reconcileDrift } from '#server/flow/rollout/drift.ts';
import { planRollout } from '#server/flow/rollout/plan-rollout.ts';
import { recallRollout } from '#server/flow/rollout/recall-rollout.ts';
import { resumeRollout } from '#server/flow/rollout/resume-rollout.ts';
import { approveRollout, steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import { withdrawRelease } from '#server/flow/rollout/withdraw-release.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Repository } from '#server/trust/repository.ts';
import { Id } from '#shared/ids.ts';
import type { Device } from './agent.ts';
import { draftOf } from './policies.ts';
import { type Random, randomOf } from './random.ts';
import { APPROVERS, AUTHOR, CHECK, EARLY_TAG, PRODUCT, PRODUCTION } from './releases.ts';
import type { Rows } from './rows.ts';
import type { Running, Server } from './server.ts';
import type { World } from './world.ts';

export type People = {
  /** Begins the next rollout. */
  plan: () => void;
  /** One of the things that people do at the worst moment. */
  meddle: () => void;
  /** When nothing goes wrong any more: what waits for a person is decided. */
  settle: () => void;
};
type Ask = (what: string, act: (running: Running) => Promise<unknown>) => void;

/** What the trust store has to publish is another matter. */
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the one method that promotion calls
const repository = { publishDelegation: async () => {} } as unknown as Repository;
const by = AUTHOR;
const DONE = new Set(['completed', 'aborted']);

export const openPeople = (deps: {
  world: World;
  server: Server;
  rows: Rows;
  devices: Device[];
  channels: Channel[];
}): People => {
  const { world, server, rows } = deps;
  /** In the server's name; whatever the server was doing when it died is lost. */
  const ask: Ask = (what, act) => {
    const running = server.running();
    if (running === undefined) return;
    world.tell(what);
    world.time.within(running.process, () => {
      act(running).catch((error: unknown) => {
        if (!running.process.dead) world.violate(`${what}: ${String(error)}`);
      });
    });
  };
  const open = (): RolloutRecord[] => rows.rollouts().filter(({ progress }) => !DONE.has(progress.state));
  let planned = 0;
  let meddled = 0;
  return {
    plan: () => {
      if (planned >= world.options.rollouts || server.running() === undefined) return;
      planned += 1;
      plan(deps, ask, planned);
    },
    meddle: () => {
      meddled += 1;
      if (world.strikes('operator', world.random('operator'), 1))
        meddle(deps, ask, open(), randomOf(world.options.seed, `operator ${meddled}`));
    },
    settle: () => settle(deps, ask, open()),
  };
};
type Deps = Parameters<typeof openPeople>[0];

const plan = ({ world, rows, channels }: Deps, ask: Ask, number: number): void => {
  const random = randomOf(world.options.seed, `plan ${number}`);
  const draft = draftOf(world, random);
  const [isOlder, older, inStaging] = [random.chance(0.2), random.between(0, number), random.chance(0.5)];
  const version = `1.${isOlder ? older : number}.0`;
  const id = Id.parse(`ro-${number}`);
  ask(`${by}: plan ${id} of ${version} (${world.releases.get(version)?.behaviour.kind})`, async (running) => {
    const isPromoted = !world.uses('channels') || inPlace(rows, version);
    const channel = isPromoted && !inStaging ? PRODUCTION : channels[0]!.name;
    const result = await planRollout(
      { ...running, channels, newId: () => id },
      {
        product: PRODUCT,
        version,
        channel,
        ...draft,
        by,
      },
    );
    if (!result.ok) world.tell(`${by}: ${id} was refused: ${result.detail}`);
    running.rollouts.wake();
  });
};

const inPlace = (rows: Rows, version: string): boolean => {
  const progress = rows.release(PRODUCT, version);
  return progress?.state === 'staged' && progress.channels.includes(PRODUCTION);
};

const promote = ({ world, channels }: Deps, ask: Ask, version: string): void => {
  const required =
    world.options.bug === 'promotion-unchecked'
      ? channels.map((channel) => ({
          ...channel,
          requires: { ...channel.requires, completedRollout: false, soakMs: 0, checks: [], approvals: 0 },
        }))
      : channels;
  ask(`${by}: promote ${version}`, (running) =>
    promoteRelease({ ...running, channels: required, repository }, { product: PRODUCT, version, to: PRODUCTION, by }),
  );
};

const steer = (ask: Ask, rollout: Id, verb: 'pause' | 'resume' | 'abort' | 'activate'): void =>
  ask(`${by}: ${verb} ${rollout}`, (running) => steerRollout(running, { rollout, verb, note: 'because', by }));

const resume = ({ rows }: Deps, ask: Ask, rollout: Id, random: Random): void => {
  const failed = rows
    .deployments({ rollout })
    .filter(({ state }) => state === 'failed' || state === 'reverted' || state === 'overdue')
    .map(({ device }) => device);
  const acknowledge = random.pick([undefined, 'all' as const, failed.filter(() => random.chance(0.6))]);
  ask(`${by}: resume ${rollout}, acknowledging ${String(acknowledge ?? 'what there is')}`, (running) =>
    resumeRollout(running, { rollout, note: 'because', by, acknowledge }),
  );
};

const approve = (ask: Ask, rollout: Id, who: string): void =>
  ask(`${who}: approve ${rollout}`, (running) => approveRollout(running, { rollout, note: '', by: who }));

const meddle = (deps: Deps, ask: Ask, some: RolloutRecord[], random: Random): void => {
  const [dice, device, who] = [random.next(), random.pick(deps.devices), random.pick([by, ...APPROVERS])];
  const one = some.length === 0 ? undefined : random.pick(some);
  if (one === undefined || dice >= 0.7) return meddleElsewhere(deps, ask, device, who, random);
  const { id, product, version } = one.plan;
  if (one.progress.state === 'awaiting-approval' && random.chance(0.7)) return approve(ask, id, who);
  if (dice < 0.2) return steer(ask, id, 'pause');
  if (dice < 0.5) return resume(deps, ask, id, random);
  if (dice < 0.54) return steer(ask, id, 'abort');
  if (dice < 0.64) return steer(ask, id, 'activate');
  if (dice < 0.68) return approve(ask, id, who);
  ask(`${by}: withdraw ${version}`, (running) => withdrawRelease(running, { product, version, reason: 'because', by }));
};

const meddleElsewhere = (deps: Deps, ask: Ask, { id }: Device, who: string, random: Random): void => {
  const { rows, channels, world } = deps;
  const dice = random.next();
  const version = `1.${random.between(0, world.options.rollouts)}.0`;
  const named = { product: PRODUCT, version };
  if (dice < 0.15) return ask(`${by}: reject ${id}`, (running) => rejectDevice(running, { device: id, by }));
  if (dice < 0.35) return ask(`${by}: accept ${id}`, (running) => acceptDevice(running, { device: id, by }));
  if (dice < 0.5) return tag(rows, ask, id, world.time.now());
  if (dice < 0.6) return ask(`${by}: adopt ${id}`, (running) => adoptDrift(running, { device: id, note: '', by }));
  if (dice < 0.7) {
    const newId = (): Id => Id.parse(`rd-${random.between(1, 1_000_000)}`);
    return ask(`${by}: reconcile ${id}`, (running) =>
      reconcileDrift({ ...running, channels, newId }, { devices: [id], by }),
    );
  }
  if (dice < 0.76) return recall(deps, ask, random);
  if (!world.uses('channels')) return;
  if (dice < 0.84)
    return ask(`ci: check of ${version}`, (running) =>
      reportCheck(
        { ...running, channels },
        { ...named, check: CHECK, outcome: random.chance(0.8) ? 'pass' : 'fail', link: null, by: 'ci' },
      ),
    );
  if (dice < 0.92)
    return ask(`${who}: approve ${version}`, (running) =>
      approveRelease({ ...running, channels }, { ...named, channel: PRODUCTION, note: '', by: who }),
    );
  return promote(deps, ask, version);
};

const recall = ({ world, rows, channels }: Deps, ask: Ask, random: Random): void => {
  const all = rows.rollouts();
  if (!world.uses('recall') || all.length === 0) return;
  const rollout = random.pick(all).plan.id;
  const to = random.chance(0.2) ? '1.0.0' : undefined;
  ask(`${by}: recall ${rollout}${to === undefined ? '' : ` to ${to}`}`, (running) =>
    recallRollout({ ...running, channels }, { rollout, note: 'because', by, to }),
  );
};

const tag = (rows: Rows, ask: Ask, device: Id, at: number): void =>
  ask(`${by}: tag ${device}`, (running) => {
    const tags = { ...rows.device(device)?.tags, ...EARLY_TAG };
    return running.store.setDeviceTags(device, tags, auditLine({ at, by, kind: 'device-tagged', device, tags }));
  });

const settle = (deps: Deps, ask: Ask, some: RolloutRecord[]): void => {
  for (const {
    plan: { id, policy, activatedAt },
    progress,
  } of some) {
    if (progress.state === 'awaiting-approval') for (const who of APPROVERS) approve(ask, id, who);
    if (progress.state === 'paused') steer(ask, id, 'resume');
    if (progress.state === 'halted') steer(ask, id, 'abort');
    if (progress.state === 'running' && policy.activation === 'on-command' && activatedAt === undefined)
      steer(ask, id, 'activate');
  }
  for (const { id } of deps.rows.devices().filter(({ state }) => state === 'rejected'))
    ask(`${by}: accept ${id}`, (running) => acceptDevice(running, { device: id, by }));
};
