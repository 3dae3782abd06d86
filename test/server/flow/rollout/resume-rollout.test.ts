import { expect, test } from 'vitest';
import { deviceProgressOf } from '#server/domain/deployment/device-progress.ts';
import { explainRollout } from '#server/flow/rollout/explain-rollout.ts';
import { resumeRollout } from '#server/flow/rollout/resume-rollout.ts';
import { steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import { Id } from '#shared/ids.ts';
import {
  deploymentsOf,
  enrolFleet,
  kindsOf,
  must,
  releaseOf,
  report,
  run,
  startRollout,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();

/** Six devices, four of which failed: halted. */
const haltedRollout = async (): Promise<Id> => {
  await enrolFleet(world, 6);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', {
    policy: { judge: { rule: 'wave-percentage', percent: 40 }, gate: { successShare: 0 } },
  });
  const deployments = await deploymentsOf(world, rollout);
  for (const deployment of deployments.slice(0, 4)) await report(world, deployment, { outcome: 'reverted' });
  await report(world, deployments[4]!, { state: 'fetching' });
  expect((await run(world, rollout)).progress.state).toBe('halted');
  return rollout;
};
const failed = async (rollout: Id): Promise<Id[]> =>
  (await deploymentsOf(world, rollout)).filter(({ state }) => state === 'reverted').map(({ device }) => device);
const resume = (rollout: Id, acknowledge?: 'all' | Id[]) =>
  resumeRollout(world, { rollout, note: 'a wet cabinet', by: 'ada', acknowledge });

test('a halt keeps how far each device had come', async () => {
  const rollout = await haltedRollout();
  const did = (await deploymentsOf(world, rollout)).map(deviceProgressOf).sort();
  expect(did).toEqual(['fetching', 'nothing', 'reverted', 'reverted', 'reverted', 'reverted']);
});

test('without names all failures so far are acknowledged, each by name in the log', async () => {
  const rollout = await haltedRollout();
  expect(must(await resume(rollout)).progress.state).not.toBe('halted');
  const lines = (await world.store.readAudit(-1, 1_000)).map(({ payload }) => JSON.parse(payload) as { kind: string });
  const devices = await failed(rollout);
  expect(lines.find(({ kind }) => kind === 'failures-acknowledged')).toMatchObject({ by: 'ada', devices });
});

test('only the named ones stop counting: the others halt it again at once', async () => {
  const rollout = await haltedRollout();
  const [first, ...others] = await failed(rollout);
  expect(must(await resume(rollout, [first!])).progress.state).toBe('halted');
  expect((await kindsOf(world)).filter((kind) => kind === 'rollout-halted')).toHaveLength(2);
  // What was acknowledged stays so; with the others named too it goes on.
  expect(must(await resume(rollout, others)).progress.state).not.toBe('halted');
});

test('what was acknowledged is not held against the rollout in its explanation after it has ended either', async () => {
  const rollout = await haltedRollout();
  must(await resume(rollout));
  must(await steerRollout(world, { rollout, verb: 'abort', note: '', by: 'ada' }));
  const { now } = must(await explainRollout(world, rollout, { limit: 1, verify: false }));
  expect(now.inputs).toMatchObject({ acknowledged: { failed: 4 }, groups: [{ failed: 0 }] });
});

test('a device that has not failed cannot be acknowledged', async () => {
  const rollout = await haltedRollout();
  expect(await resume(rollout, [Id.parse('gw-99')])).toMatchObject({ ok: false, code: 'invalid-request' });
  expect(await resumeRollout(world, { rollout: Id.parse('ro-0'), note: 'x', by: 'ada' })).toMatchObject({
    code: 'not-found',
  });
});
