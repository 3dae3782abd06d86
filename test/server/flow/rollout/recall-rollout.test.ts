import { describe, expect, test } from 'vitest';
import { parseAuditEvent, sentenceOf } from '#server/domain/audit.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { recalledOf } from '#server/domain/rollout/recall.ts';
import { enactRecall } from '#server/flow/rollout/enact-recall.ts';
import { planRollout } from '#server/flow/rollout/plan-rollout.ts';
import { recallRollout } from '#server/flow/rollout/recall-rollout.ts';
import { resumeRollout } from '#server/flow/rollout/resume-rollout.ts';
import { steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import { withdrawRelease } from '#server/flow/rollout/withdraw-release.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Running } from '#shared/deployment.ts';
import { Id } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';
import {
  deploymentsOf,
  deviceOf,
  enrolFleet,
  GATEWAY,
  lastTold,
  must,
  PRODUCTION,
  releaseOf,
  report,
  run,
  startRollout,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();

const id = (text: string): Id => Id.parse(text);
const runningOf = async (version: string): Promise<Running> => {
  const release = await world.store.getRelease(GATEWAY, version);
  return { product: GATEWAY, version, manifest: release!.bundles[0]!.manifestSha256, slot: 'a' };
};
const deploymentOf = async (rollout: Id, device: string): Promise<DeploymentRecord> =>
  (await deploymentsOf(world, rollout)).find((one) => one.device === device)!;
/** Says how it went in the rollout, and what the device runs since. */
const ends = async (
  rollout: Id,
  device: string,
  outcome: 'committed' | 'reverted',
  version: string,
  floor = 0,
): Promise<void> =>
  report(world, await deploymentOf(rollout, device), { outcome }, { running: await runningOf(version), floor });
const begins = async (rollout: Id, device: string): Promise<void> => {
  const deployment = await deploymentOf(rollout, device);
  await report(world, deployment, { state: 'trial' }, { running: await runningOf('1.0.0') });
};
/** All devices run the version, by an ordinary rollout. */
const bring = async (version: string, devices: readonly string[], floor = 0): Promise<Id> => {
  const rollout = await startRollout(world, version, { policy: LENIENT });
  for (const device of devices) await ends(rollout, device, 'committed', version, floor);
  await run(world, rollout);
  return rollout;
};
const LENIENT = { judge: { rule: 'wave-percentage' as const, percent: 99 } };
const STRICT = { judge: { rule: 'percentage-after-minimum' as const, percent: 10, minimum: 2 } };
const recall = (rollout: Id, more: { to?: string; note?: string } = {}) =>
  recallRollout(world, { rollout, note: 'GW-31', by: 'ada', ...more });
const rolloutOf = async (name: string): Promise<RolloutRecord> => (await world.store.getRollout(id(name)))!;
const devicesOf = async (rollout: string): Promise<string[]> =>
  (await deploymentsOf(world, id(rollout))).map(({ device }) => device).sort();
const sentences = async (): Promise<string[]> =>
  (await world.store.readAudit(-1, 10_000)).flatMap(({ payload }) => {
    const event = parseAuditEvent(payload);
    return event === undefined ? [] : [sentenceOf(event)];
  });
const staying = async (rollout: Id): Promise<string[]> =>
  (await world.store.listStays(rollout, 0)).flatMap(({ reason, named }) =>
    named.map((device) => `${device} ${reason}`),
  );

/** Four devices run 1.0.0; of 1.1.0 two committed, one failed, so that it halted, and one is on trial. */
const haltedRollout = async (onHalt: 'hold' | 'recall' = 'hold', counter = 0): Promise<Id> => {
  await releaseOf(world, '1.0.0');
  await releaseOf(world, '1.1.0', counter);
  const devices = await enrolFleet(world, 4);
  await bring('1.0.0', devices);
  const bad = await startRollout(world, '1.1.0', { policy: { ...STRICT, onHalt } });
  await begins(bad, 'gw-4');
  await ends(bad, 'gw-1', 'committed', '1.1.0', counter);
  await ends(bad, 'gw-2', 'committed', '1.1.0', counter);
  await ends(bad, 'gw-3', 'reverted', '1.0.0');
  expect((await run(world, bad)).progress.state).toBe('halted');
  return bad;
};

describe('by command', () => {
  test('those who committed get what they ran before, in an urgent rollout of its own; no one else does', async () => {
    const bad = await haltedRollout();
    must(await recall(bad));
    const back = await rolloutOf(`${bad}-r1`);
    expect(back.plan).toMatchObject({ version: '1.0.0', recalls: bad, policy: { priority: 90, onHalt: 'hold' } });
    expect(await devicesOf(back.plan.id)).toEqual(['gw-1', 'gw-2']);
    await run(world, back.plan.id);
    expect(lastTold(world, id('gw-1'))).toMatchObject({ kind: 'install', version: '1.0.0', rollout: back.plan.id });
    expect(lastTold(world, id('gw-3'))).toMatchObject({ kind: 'none' });
    for (const device of ['gw-1', 'gw-2']) await ends(back.plan.id, device, 'committed', '1.0.0');
    expect((await run(world, back.plan.id)).progress.state).toBe('completed');
    const said = (await sentences()).join('\n');
    expect(said).toContain(`ada recalled rollout ${bad}: its devices go back to what each ran before: GW-31.`);
    expect(said).toContain(`to 2 devices in 1 wave (2), to take back rollout ${bad}.`);
  });

  test('who is on trial meanwhile and commits later joins, or gets the next one when that is over', async () => {
    const bad = await haltedRollout();
    must(await recall(bad));
    await ends(bad, 'gw-4', 'committed', '1.1.0');
    await run(world, bad);
    expect(await devicesOf(`${bad}-r1`)).toEqual(['gw-1', 'gw-2', 'gw-4']);
    expect((await rolloutOf(`${bad}-r1`)).plan.waveSizes).toEqual([3]);
    expect(await world.store.recountDeployments(id(`${bad}-r1`))).toMatchObject([{ state: 'planned', devices: 3 }]);
  });

  test('when the first recall has ended, a late commit gets another', async () => {
    const bad = await haltedRollout();
    must(await recall(bad));
    await run(world, id(`${bad}-r1`));
    for (const device of ['gw-1', 'gw-2']) await ends(id(`${bad}-r1`), device, 'committed', '1.0.0');
    await run(world, id(`${bad}-r1`));
    await ends(bad, 'gw-4', 'committed', '1.1.0');
    expect((await rolloutOf(bad)).nextTickAt).not.toBeNull();
    await run(world, bad);
    expect(await devicesOf(`${bad}-r2`)).toEqual(['gw-4']);
  });

  test('what was recalled is not resumed, and stays recalled when it is aborted', async () => {
    const bad = await haltedRollout();
    must(await recall(bad));
    expect(await resumeRollout(world, { rollout: bad, note: 'fixed', by: 'ada' })).toMatchObject({
      code: 'conflict',
      detail: expect.stringContaining('was recalled'),
    });
    const aborted = must(await steerRollout(world, { rollout: bad, verb: 'abort', note: '', by: 'ada' }));
    expect(recalledOf(aborted.progress)).toMatchObject({ by: 'ada' });
  });

  test('a halt that recalls, and finds no one to go back, can be resumed', async () => {
    await releaseOf(world, '1.0.0');
    await releaseOf(world, '1.1.0');
    const devices = await enrolFleet(world, 3);
    await bring('1.0.0', devices);
    const bad = await startRollout(world, '1.1.0', { policy: { ...STRICT, onHalt: 'recall' } });
    for (const device of ['gw-1', 'gw-2']) await ends(bad, device, 'reverted', '1.0.0');
    expect((await run(world, bad)).progress).toMatchObject({ state: 'halted', recalled: { by: 'server' } });
    const resumed = must(await resumeRollout(world, { rollout: bad, note: 'two wet cabinets', by: 'ada' }));
    expect(resumed.progress.state).toBe('running');
    expect(recalledOf(resumed.progress)).toBeUndefined();
  });

  test('a running rollout is halted or aborted first; a completed or aborted one can be recalled', async () => {
    await releaseOf(world, '1.0.0');
    await releaseOf(world, '1.1.0');
    const devices = await enrolFleet(world, 2);
    await bring('1.0.0', devices);
    const running = await startRollout(world, '1.1.0', { policy: LENIENT });
    expect(await recall(running)).toMatchObject({
      code: 'conflict',
      detail: expect.stringContaining('Halt or abort it first'),
    });
    for (const device of devices) await ends(running, device, 'committed', '1.1.0');
    expect((await run(world, running)).progress.state).toBe('completed');
    must(await recall(running));
    expect(await devicesOf(`${running}-r1`)).toEqual(['gw-1', 'gw-2']);
  });

  test('a second time looks again at who has not gone back, and at no one who is on the way', async () => {
    const bad = await haltedRollout();
    must(await recall(bad));
    const first = id(`${bad}-r1`);
    must(await recall(bad));
    expect(await world.store.listRecalls(bad)).toHaveLength(1);
    await run(world, first);
    await ends(first, 'gw-1', 'committed', '1.0.0');
    must(await steerRollout(world, { rollout: first, verb: 'abort', note: '', by: 'ada' }));
    must(await recall(bad));
    expect(await devicesOf(`${bad}-r2`)).toEqual(['gw-2']);
  });

  // Found by hand: it answered as the first time, as if it had done something.
  test('with no one left to recall a second time records nothing, unless who commits late is to go elsewhere', async () => {
    const bad = await haltedRollout();
    expect(must(await recall(bad)).nobodyLeft).toBe(false);
    const said = await sentences();
    const second = must(await recall(bad, { note: 'once more' }));
    expect(second.nobodyLeft).toBe(true);
    expect(recalledOf(second.rollout.progress)).toMatchObject({ note: 'GW-31' });
    expect(await sentences()).toEqual(said);
    await releaseOf(world, '0.9.0');
    expect(must(await recall(bad, { to: '0.9.0' })).nobodyLeft).toBe(true);
    await ends(bad, 'gw-4', 'committed', '1.1.0');
    await run(world, bad);
    expect((await rolloutOf(`${bad}-r2`)).plan.version).toBe('0.9.0');
    expect(must(await recall(bad, { to: '0.9.0' })).nobodyLeft).toBe(true);
  });

  test('who could not go back is looked at again, and is someone left to recall', async () => {
    const bad = await haltedRollout();
    must(await withdrawRelease(world, { product: GATEWAY, version: '1.0.0', reason: 'leaks', by: 'ada' }));
    for (const time of ['first', 'second'])
      expect(must(await recall(bad, { note: time }))).toMatchObject({ nobodyLeft: false });
    expect(await staying(bad)).toEqual(['gw-1 withdrawn', 'gw-2 withdrawn']);
  });

  test('a device that another rollout has brought on meanwhile is left alone', async () => {
    const bad = await haltedRollout();
    await releaseOf(world, '1.2.0');
    const hotfix = await startRollout(world, '1.2.0', { policy: LENIENT });
    await ends(hotfix, 'gw-1', 'committed', '1.2.0');
    must(await recall(bad));
    expect(await devicesOf(`${bad}-r1`)).toEqual(['gw-2']);
  });
});

describe('who cannot go back stays, with the reason', () => {
  test('nothing ran before; it ran the release before the rollout came', async () => {
    await releaseOf(world, '1.1.0');
    await enrolFleet(world, 2);
    const canary = await bring('1.1.0', ['gw-1']);
    must(await steerRollout(world, { rollout: canary, verb: 'abort', note: '', by: 'ada' }));
    const bad = await startRollout(world, '1.1.0', { policy: LENIENT });
    await ends(bad, 'gw-2', 'committed', '1.1.0');
    await run(world, bad);
    must(await recall(bad));
    expect(await staying(bad)).toEqual(['gw-1 not-by-this', 'gw-2 ran-nothing']);
    expect(await world.store.listRecalls(bad)).toEqual([]);
    expect((await sentences()).join('\n')).toContain('device gw-2 cannot go back: it ran nothing before');
  });

  test('the earlier release was withdrawn', async () => {
    const bad = await haltedRollout();
    must(await withdrawRelease(world, { product: GATEWAY, version: '1.0.0', reason: 'leaks', by: 'ada' }));
    must(await recall(bad));
    expect(await staying(bad)).toEqual(['gw-1 withdrawn', 'gw-2 withdrawn']);
  });

  test('the bad release has raised the floor of those who committed it', async () => {
    const bad = await haltedRollout('hold', 1);
    must(await recall(bad));
    expect(await staying(bad)).toEqual(['gw-1 below-floor', 'gw-2 below-floor']);
  });
});

describe('to a release by name', () => {
  test('everyone goes there, whatever they ran; another time too', async () => {
    const bad = await haltedRollout();
    must(await withdrawRelease(world, { product: GATEWAY, version: '1.0.0', reason: 'leaks', by: 'ada' }));
    must(await recall(bad));
    await releaseOf(world, '0.9.0');
    must(await recall(bad, { to: '0.9.0' }));
    expect((await rolloutOf(`${bad}-r1`)).plan.version).toBe('0.9.0');
    expect(await devicesOf(`${bad}-r1`)).toEqual(['gw-1', 'gw-2']);
    expect(await world.store.listStays(bad, recalledOf((await rolloutOf(bad)).progress)!.at)).toEqual([]);
  });

  test('is refused when it is unknown, the same, withdrawn, not staged, or forbidden by the floor of all', async () => {
    const bad = await haltedRollout('hold', 1);
    const refused = async (to: string): Promise<string> => {
      const result = await recall(bad, { to });
      return result.ok ? 'accepted' : result.detail;
    };
    expect(await refused('7.0.0')).toContain('no release');
    expect(await refused('1.1.0')).toContain('is what the rollout brought');
    expect(await refused('1.0.0')).toContain('the security floor forbids it: gateway@1.0.0 has the security counter 0');
    must(await withdrawRelease(world, { product: GATEWAY, version: '1.0.0', reason: 'leaks', by: 'ada' }));
    expect(await refused('1.0.0')).toContain('was withdrawn');
    expect(recalledOf((await rolloutOf(bad)).progress)).toBeUndefined();
  });

  test('needs the approvals of its channel; going back to what ran before needs none', async () => {
    const bad = await haltedRollout();
    world.channels.find(({ name }) => name === PRODUCTION)!.rolloutApprovals = 1;
    must(await recall(bad, { to: '1.0.0' }));
    expect((await rolloutOf(`${bad}-r1`)).progress).toMatchObject({ state: 'awaiting-approval', needed: 1 });
  });
});

describe('by itself', () => {
  test('a halt of a rollout with onHalt: recall is recorded and enacted at once, and again by no one', async () => {
    const bad = await haltedRollout('recall');
    expect(recalledOf((await rolloutOf(bad)).progress)).toMatchObject({ by: 'server' });
    expect(await devicesOf(`${bad}-r1`)).toEqual(['gw-1', 'gw-2']);
    await Promise.all([run(world, bad), enactRecall(world, bad), enactRecall(world, bad)]);
    expect(await world.store.listRecalls(bad)).toHaveLength(1);
    const back = id(`${bad}-r1`);
    // The recall fails too: it halts, and no one is taken forth and back.
    await run(world, back);
    for (const device of ['gw-1', 'gw-2']) await ends(back, device, 'reverted', '1.1.0');
    expect((await run(world, back)).progress).not.toHaveProperty('recalled');
    expect(await world.store.listRecalls(back)).toEqual([]);
  });

  test('a server that ends between the halt and the recall makes up for it when it runs again', async () => {
    const bad = await haltedRollout('hold');
    // As the transaction of such a halt leaves it.
    const record = await rolloutOf(bad);
    const progress = { ...record.progress, recalled: { at: world.now(), by: 'server', note: '' } };
    const rollout = { ...record, progress, nextTickAt: world.now() } as RolloutRecord;
    await world.store.saveRollout({ rollout, offers: [], withdraw: null, replan: false, audit: [], now: world.now() });
    expect((await world.store.listDueRollouts(world.now(), 10)).map(({ plan }) => plan.id)).toContain(bad);
    await run(world, bad);
    expect(await devicesOf(`${bad}-r1`)).toEqual(['gw-1', 'gw-2']);
  });

  test('a late commit makes a recalled rollout that rests due again, in the transaction that saves it', async () => {
    const bad = await haltedRollout('recall');
    const record = await rolloutOf(bad);
    await world.store.saveRollout({
      rollout: { ...record, nextTickAt: null },
      offers: [],
      withdraw: null,
      replan: false,
      audit: [],
      now: world.now(),
    });
    await ends(bad, 'gw-4', 'committed', '1.1.0');
    expect((await rolloutOf(bad)).nextTickAt).not.toBeNull();
  });
});

describe('a plain rollout of an older release', () => {
  const plan = () =>
    planRollout(world, {
      product: GATEWAY,
      version: '1.0.0',
      channel: PRODUCTION,
      cohorts: [{ cohort: id('fleet'), waves: [{ percent: 100 }] }],
      policy: Policy.parse({}),
      by: 'ada',
    });

  test('leaves out devices that are below their floor, and says so before anything is offered', async () => {
    await haltedRollout('hold', 1);
    const planned = must(await plan());
    expect(planned.plan).toMatchObject({ excluded: 2, belowFloor: 2, waveSizes: [2] });
    expect((await sentences()).join('\n')).toContain('leaving out 2 (2 of them below their security floor)');
  });

  test('is refused when the floor forbids it to everyone', async () => {
    await releaseOf(world, '1.0.0');
    await releaseOf(world, '1.1.0', 3);
    await bring('1.1.0', await enrolFleet(world, 2), 3);
    expect((await deviceOf(world, 'gw-1')).floor).toBe(3);
    expect(await plan()).toMatchObject({
      code: 'conflict',
      detail: expect.stringContaining('the security floor forbids it: all 2 devices'),
    });
  });
});
