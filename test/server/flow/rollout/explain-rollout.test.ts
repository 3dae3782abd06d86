import { expect, test } from 'vitest';
import { explainRollout } from '#server/flow/rollout/explain-rollout.ts';
import { steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import { ExplanationView } from '#shared/explanation.ts';
import type { Id } from '#shared/ids.ts';
import { deploymentsOf, enrolFleet, must, releaseOf, report, run, startRollout, worldOfEachTest } from '../world.ts';

const world = worldOfEachTest();

const explain = async (rollout: Id, more: { after?: string; limit?: number } = {}): Promise<ExplanationView> =>
  ExplanationView.parse(must(await explainRollout(world, rollout, { limit: 200, verify: true, ...more })));
const story = ({ items }: ExplanationView): string[][] => items.map(({ kinds }) => kinds).toReversed();
const faults = ({ items }: ExplanationView): string[] => items.flatMap((one) => one.faults ?? ['not verified']);
const wait = async (rollout: Id, seconds: number): Promise<void> => {
  for (let second = 0; second < seconds; second += 1) {
    world.pass(1_000);
    await run(world, rollout);
  }
};
const commitAll = async (rollout: Id): Promise<void> => {
  for (const deployment of await deploymentsOf(world, rollout))
    if (deployment.state === 'offered') await report(world, deployment, { outcome: 'committed' });
};
const twoWaves = async (): Promise<Id> => {
  await enrolFleet(world, 5);
  await releaseOf(world, '1.0.0');
  return startRollout(world, '1.0.0', { waves: [{ count: 2 }, { count: 5 }] });
};

test('a rollout tells its whole story: a line for each decision, none for ticks that change nothing, and all of it verified', async () => {
  const rollout = await twoWaves();
  await wait(rollout, 20);
  await commitAll(rollout);
  await wait(rollout, 70);
  await commitAll(rollout);
  await wait(rollout, 1);
  const view = await explain(rollout);
  expect(story(view)).toEqual([
    ['rollout-started', 'wave-opened'],
    ['offered'],
    ['held-by-gate'],
    ['gate-met'],
    ['wave-opened', 'offered'],
    ['held-by-gate'],
    ['rollout-completed'],
  ]);
  expect(faults(view)).toEqual([]);
  expect(view.items.map(({ offered }) => offered)).toEqual([0, 0, 3, 0, 0, 2, 0]);
});

test('a device that says why it does not act on its offer is named with its code', async () => {
  const rollout = await twoWaves();
  const offered = (await deploymentsOf(world, rollout)).filter(({ state }) => state === 'offered');
  const refusals = async () => (await explain(rollout)).now.reasons.filter(({ about }) => about === 'refusals');
  expect(await refusals()).toEqual([]);
  const [first] = offered.map(({ device }) => device).sort();
  await world.store.noteRefusal(first!, 'ROOT_EXPIRED');
  expect(await refusals()).toMatchObject([{ sentence: `1 device does not act on its offer: ${first} (ROOT_EXPIRED)` }]);
  for (const { device } of offered) await world.store.noteRefusal(device, 'TIME_UNTRUSTED');
  expect((await explain(rollout)).now.explanation).toContain('devices do not act on their offers');
  await world.store.noteRefusal(first!, null);
  await commitAll(rollout);
  expect(await refusals()).toEqual([]);
});

test('a past decision shows the figures of its own time, and the present those of now', async () => {
  const rollout = await twoWaves();
  await commitAll(rollout);
  await wait(rollout, 1);
  const view = await explain(rollout);
  const first = view.items.find(({ kinds }) => kinds.includes('offered'))!;
  expect(first.inputs?.groups).toMatchObject([
    { healthy: 0, judged: 0, planned: 5, judge: { upperBound: 1, grants: 20 } },
  ]);
  expect(first.inputs).toMatchObject({ evidenceToHalt: 20, gate: { committed: 0, needed: 2, since: null } });
  expect(view.now.inputs.groups).toMatchObject([{ healthy: 2, judged: 2, planned: 3, judge: { grants: 26 } }]);
  expect(view.now.reasons.map(({ sentence }) => sentence)).toContain(
    'm = 26 devices may be offered beyond those that accepted: 26 more now',
  );
  expect(view.now.explanation).toMatch(/^In wave 1 of 2: enough devices committed/);
});

test('what a person did is among the decisions, by name', async () => {
  const rollout = await twoWaves();
  must(await steerRollout(world, { rollout, verb: 'pause', note: 'a storm', by: 'ada' }));
  must(await steerRollout(world, { rollout, verb: 'resume', note: '', by: 'bob' }));
  must(await steerRollout(world, { rollout, verb: 'abort', note: 'enough', by: 'bob' }));
  const view = await explain(rollout);
  expect(view.items[0]).toMatchObject({ by: 'bob', kinds: ['rollout-aborted'], withdrawn: 2 });
  expect(view.items[0]?.sentence).toBe(`bob aborted rollout ${rollout}: enough. 2 offers withdrawn.`);
  expect(view.items.map(({ by }) => by)).toContain('ada');
  // Whatever the judge would grant, nothing is offered any more.
  expect(view.now.reasons.map(({ sentence }) => sentence)).toContainEqual(
    expect.stringMatching(/^m = .*: none, since it is aborted$/),
  );
  expect(faults(view)).toEqual([]);
});

// Found by hand: with every decision gone, nothing was left that did not hold.
test('decisions that are all gone do not hold', async () => {
  const rollout = await twoWaves();
  expect(await explain(rollout)).toMatchObject({ faults: [] });
  const lost = { ...world, store: { ...world.store, listDecisions: async () => [] } };
  const view = must(await explainRollout(lost, rollout, { limit: 200, verify: true }));
  expect(view).toMatchObject({ items: [], faults: ['none of its decisions is there'] });
});

// Found by hand: one damaged record was answered with "internal error", which named nothing.
test.each([
  null,
  'no JSON',
  '{}',
  '{"previous":null,"rollout":{"progress":{"state":"draft"}},"facts":{"bins":{"groups":[]}}}',
])('a decision whose record is %j by now is named and does not hold, and those beside it are told', async (record) => {
  const rollout = await twoWaves();
  await wait(rollout, 1);
  const intact = await explain(rollout);
  const [third, second, first] = await world.store.listDecisions(rollout, { limit: 3 });
  const store = { ...world.store, listDecisions: async () => [third!, { ...second!, record }, first!] };
  const asked = (verify: boolean) => explainRollout({ ...world, store }, rollout, { limit: 200, verify });
  const { items, faults: ofAll } = ExplanationView.parse(must(await asked(true)));
  expect(items[1]).toMatchObject({ decision: 2, at: second!.at, kinds: ['unreadable'], by: null, inputs: null });
  expect(items[1]).toMatchObject({ sentence: 'Its record cannot be read.', faults: ['its record cannot be read'] });
  expect([items[0], items[2]]).toEqual([intact.items[0], intact.items[2]]);
  expect(ofAll).toEqual([]);
  expect(must(await asked(false)).items[1]).toMatchObject({ kinds: ['unreadable'], faults: null });
});

test('of a rollout that is long over only the newest decision is kept, and that the others were pruned is told and verified', async () => {
  const rollout = await twoWaves();
  must(await steerRollout(world, { rollout, verb: 'abort', note: '', by: 'ada' }));
  world.pass(120_000);
  await run(world, rollout);
  const { items: all } = await explain(rollout);
  expect(all.every(({ pruned }) => pruned === null)).toBe(true);
  expect(await world.store.pruneDecisions(world.now(), world.now(), 10)).toBe(all.length - 1);
  const { items, next, faults: ofAll } = await explain(rollout);
  const line = (await world.store.getAuditHead()).size - 1;
  expect(items).toEqual([{ ...all[0], pruned: line }]);
  expect([next, ofAll]).toEqual([null, []]);

  // Who deletes decisions himself has no such line in the log, or one that is of others.
  const [kept] = await world.store.listDecisions(rollout, { limit: 1 });
  for (const pruned of [null, line - 1, 1_000_000]) {
    const store = { ...world.store, listDecisions: async () => [{ ...kept!, pruned }] };
    const view = must(await explainRollout({ ...world, store }, rollout, { limit: 200, verify: true }));
    expect(view.items[0]?.faults).toContain('decisions before it are missing');
  }
});

test('a rollout whose devices another one has says so once, not every second', async () => {
  await enrolFleet(world, 3);
  await releaseOf(world, '1.0.0');
  await releaseOf(world, '1.1.0');
  const first = await startRollout(world, '1.0.0');
  const second = await startRollout(world, '1.1.0');
  await wait(second, 60);
  const waiting = await explain(second);
  expect(story(waiting)).toEqual([['rollout-started', 'wave-opened'], ['nobody-free']]);
  expect(waiting.items[0]).toMatchObject({ offered: 0, waitsFor: [{ rollout: first, devices: 3 }] });
  await commitAll(first);
  await wait(second, 1);
  expect((await explain(second)).items[0]).toMatchObject({ kinds: ['offered'], offered: 3, waitsFor: [] });
});

test('lists are pages, and each page verifies by itself', async () => {
  const rollout = await twoWaves();
  await wait(rollout, 2);
  const first = await explain(rollout, { limit: 1 });
  const second = await explain(rollout, { limit: 1, after: first.next! });
  expect(second.items[0]?.decision).toBe(first.items[0]!.decision - 1);
  expect(faults(first).concat(faults(second))).toEqual([]);
  const refused = await explainRollout(world, rollout, { limit: 1, verify: false, after: 'x' });
  expect(refused).toMatchObject({ ok: false, code: 'invalid-request' });
});

test('the audit log names the digest of each decision that it has a line of', async () => {
  const rollout = await twoWaves();
  const view = await explain(rollout);
  const lines = (await world.store.readAudit(-1, 1_000)).map(
    ({ payload }) => JSON.parse(payload) as { kind: string; decision?: string },
  );
  const decided = lines.filter(({ decision }) => decision !== undefined);
  expect(decided.map(({ kind }) => kind)).toEqual(['rollout-started', 'wave-opened', 'offered']);
  expect(new Set(decided.map(({ decision }) => decision))).toEqual(new Set(view.items.map(({ sha256 }) => sha256)));
});

test('an offer that the judge did not allow is found out', async () => {
  const rollout = await twoWaves();
  const stored = (await world.store.getRollout(rollout))!;
  const [kept] = await world.store.listDecisions(rollout, { limit: 1 });
  const record = kept!.record!.replace('"atRiskMax":1000000', '"atRiskMax":1');
  expect(record).not.toBe(kept!.record);
  const saved = { rollout: stored, offers: [], withdraw: null, replan: false, audit: [], now: world.now() };
  const decision = { record, sha256: kept!.sha256, at: world.now(), onlyIfOffered: false };
  expect(await world.store.saveRollout({ ...saved, decision })).toMatchObject({ result: 'saved' });
  expect((await explain(rollout)).items[0]?.faults).toEqual(
    expect.arrayContaining([
      'its inputs lead to another set of offers',
      'its record is not the one that was hashed',
      'it names another decision as the one before it',
    ]),
  );
});

// Found by hand: a halted rollout said that its next wave opens when the gate has been met for a minute.
test('a rollout that does not run does not say that its next wave opens', async () => {
  const rollout = await twoWaves();
  await commitAll(rollout);
  await wait(rollout, 1);
  must(await steerRollout(world, { rollout, verb: 'pause', note: 'enough', by: 'ada' }));
  const gate = (await explain(rollout)).now.reasons.find(({ about }) => about === 'gate');
  expect(gate?.sentence).toMatch(/\(90 %\), met; wave 2 does not open while it is paused$/);
});
