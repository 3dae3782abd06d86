import { beforeEach, expect, test } from 'vitest';
import { Channels } from '#server/domain/release/channel.ts';
import { createOperator, revokeOperator } from '#server/flow/operators.ts';
import { approveRelease, readinessOf, reportCheck } from '#server/flow/release/promote-release.ts';
import { promoteRelease, stageRelease } from '#server/flow/release/stage-release.ts';
import { planRollout } from '#server/flow/rollout/plan-rollout.ts';
import { withdrawRelease } from '#server/flow/rollout/withdraw-release.ts';
import { Id } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';
import {
  DAY,
  deploymentsOf,
  enrolFleet,
  GATEWAY,
  kindsOf,
  makeBundle,
  makeProduct,
  must,
  PRODUCTION,
  publish,
  report,
  run,
  worldOfEachTest,
} from '../world.ts';

const STAGING = Id.parse('staging');
const E2E = Id.parse('e2e');
const release = { product: GATEWAY, version: '1.0.0' };
const world = worldOfEachTest();
/** Production requires this of every release. */
const require = (requires: object): void => {
  world.channels.splice(0, 9, ...Channels.parse(['staging', { name: 'production', requires }]));
};
const approve = (by: string) => approveRelease(world, { ...release, channel: PRODUCTION, note: 'looked', by });
const check = (outcome: 'pass' | 'fail') =>
  reportCheck(world, { ...release, check: E2E, outcome, link: null, by: 'ci' });
const promote = (by = 'ada') => promoteRelease(world, { ...release, to: PRODUCTION, by });
const stage = (channel: Id, by = 'ada') => stageRelease(world, { ...release, channel, by });
const why = async (act: Promise<{ ok: boolean; detail?: string }>): Promise<string> => (await act).detail ?? 'done';

beforeEach(async () => {
  for (const name of ['ada', 'bob', 'carol']) must(await createOperator(world, { name, role: 'operator', by: 'root' }));
  must(await createOperator(world, { name: 'ci', role: 'ci', by: 'root' }));
  must(await createOperator(world, { name: 'root', role: 'admin', by: 'server' }));
  must(await makeProduct(world));
  must(await publish(world, [await makeBundle(world, '1.0.0')]));
});

test('a release is promoted to the next channel, the same bytes, and only from the one before', async () => {
  expect(await promote()).toMatchObject({ code: 'conflict', detail: expect.stringContaining('not in staging') });
  const staged = must(await stage(STAGING));
  const promoted = must(await promote());
  expect(promoted).toEqual({ ...staged, progress: { state: 'staged', channels: ['staging', 'production'] } });
  const before = await kindsOf(world);
  expect(before.at(-1)).toBe('release-promoted');
  must(await promote());
  expect(await kindsOf(world)).toEqual(before);
  expect(await promoteRelease(world, { ...release, to: STAGING, by: 'ada' })).toMatchObject({
    code: 'invalid-request',
  });
});

test('all that is missing is listed, for promoting and for staging alike', async () => {
  require({ checks: ['e2e'], sbom: true, completedRollout: true, approvals: 1 });
  must(await stage(STAGING));
  const refused = await promote();
  expect(refused).toMatchObject({ code: 'requirements-unmet' });
  expect(await stage(PRODUCTION)).toEqual(refused);
  expect(await why(promote())).toBe(
    'gateway@1.0.0 may not go to production yet: there is no SBOM in the bundle for gw2; check e2e has not been reported; ' +
      'no rollout of it that devices committed has completed in staging; approvals: 0 of 1 given, from others than ci, ada',
  );
});

test('the newest word on a check counts, and saying the same twice is logged once', async () => {
  require({ checks: ['e2e'] });
  must(await stage(STAGING));
  must(await check('pass'));
  must(await check('fail'));
  must(await check('fail'));
  expect(await why(promote())).toMatch(/check e2e failed/);
  must(await check('pass'));
  expect((await kindsOf(world)).filter((kind) => kind === 'release-checked')).toHaveLength(3);
  must(await promote());
});

test('approvals come from people who neither published nor promote the release, each counting once', async () => {
  require({ approvals: 2 });
  must(await stage(STAGING));
  expect(await approve('ci')).toMatchObject({ code: 'forbidden' });
  must(await approve('ada'));
  must(await approve('bob'));
  must(await approve('bob'));
  // What ada approved does not count when ada promotes.
  expect(await why(promote('ada'))).toMatch(/1 of 2 given \(bob\), from others than ci, ada/);
  expect(must(await promote('carol')).progress).toMatchObject({ channels: ['staging', 'production'] });
  const { payload } = (await world.store.readAudit(-1, 1000)).at(-1)!;
  expect(JSON.parse(payload)).toMatchObject({ kind: 'release-promoted', by: 'carol', approvedBy: ['ada', 'bob'] });
  expect(await approve('root')).toMatchObject({ code: 'conflict' });
});

test('the approval of an operator who was revoked does not count any more', async () => {
  require({ approvals: 1 });
  must(await stage(STAGING));
  must(await approve('bob'));
  must(await revokeOperator(world, { name: 'bob', by: 'root' }));
  expect(await why(promote())).toMatch(/0 of 1 given/);
  must(await approve('carol'));
  must(await promote());
});

test('a further bundle of the release makes what was said of it before void', async () => {
  require({ checks: ['e2e'], approvals: 1 });
  must(await check('pass'));
  must(await approve('bob'));
  must(await publish(world, [await makeBundle(world, '1.0.0', { compatible: 'gw3' })]));
  const { checks, approvals } = must(await readinessOf(world, release));
  expect({ checks, approvals }).toEqual({ checks: [], approvals: [] });
});

test('a channel that requires a rollout before it takes the release after its soak, counted from the completion', async () => {
  require({ completedRollout: true, soakMs: DAY });
  await enrolFleet(world, 2);
  must(await stage(STAGING));
  const planned = must(
    await planRollout(world, {
      ...release,
      channel: STAGING,
      cohorts: [{ cohort: Id.parse('fleet'), waves: [{ percent: 100 }] }],
      policy: Policy.parse({}),
      by: 'ada',
    }),
  );
  await run(world, planned.plan.id);
  expect(await why(promote())).toMatch(/no rollout of it that devices committed has completed in staging/);
  for (const deployment of await deploymentsOf(world, planned.plan.id))
    await report(world, deployment, { outcome: 'committed' });
  let record = await run(world, planned.plan.id);
  for (let tick = 0; tick < 10 && record.progress.state !== 'completed'; tick += 1) {
    world.pass(60_000);
    record = await run(world, planned.plan.id);
  }
  expect(record.progress.state).toBe('completed');
  expect(await why(promote())).toMatch(/may not go to production yet: its soak of 1 d goes on for another 1 d$/);
  world.pass(DAY);
  must(await promote());
});

test('a rollout that completed without one device having committed proves nothing', async () => {
  require({ completedRollout: true });
  const [device] = await enrolFleet(world, 1);
  must(await stage(STAGING));
  const planned = must(
    await planRollout(world, {
      ...release,
      channel: STAGING,
      cohorts: [{ cohort: Id.parse('fleet'), waves: [{ percent: 100 }] }],
      policy: Policy.parse({}),
      by: 'ada',
    }),
  );
  await world.store.setDeviceState(device!, 'rejected', world.now(), { payload: '{"kind":"x"}' });
  await run(world, planned.plan.id);
  await run(world, planned.plan.id);
  expect((await world.store.getRollout(planned.plan.id))?.progress.state).toBe('completed');
  expect(await why(promote())).toMatch(/no rollout of it that devices committed/);
});

test('nothing more is said of a withdrawn release, nor of one that is not there', async () => {
  must(await withdrawRelease(world, { ...release, reason: 'bad', by: 'ada' }));
  for (const act of [check('pass'), approve('bob'), promote()]) expect(await act).toMatchObject({ code: 'conflict' });
  expect(await readinessOf(world, { ...release, version: '9.9.9' })).toMatchObject({ code: 'not-found' });
  const nightly = approveRelease(world, { ...release, channel: Id.parse('nightly'), note: '', by: 'bob' });
  expect(await nightly).toMatchObject({ code: 'invalid-request' });
});
