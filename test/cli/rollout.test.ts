/** `sluice rollout`, by what a server answers. */
import { expect, test } from 'vitest';
import { DEPLOYMENT_STATES } from '#shared/deployment.ts';
import { CohortPlan, Policy } from '#shared/policy.ts';
import { serveAnswer } from './answers.ts';
import { runSluice } from './run.ts';

const counts = Object.fromEntries(DEPLOYMENT_STATES.map((state) => [state, 0]));
const view = {
  id: 'r1',
  release: 'gateway@1.0.0',
  channel: 'production',
  cohorts: [CohortPlan.parse({ cohort: 'all' })],
  policy: Policy.parse({}),
  createdAt: 0,
  createdBy: 'admin',
  approval: null,
  endBy: null,
  activatedAt: null,
  explanation: 'because',
  wave: null,
  devices: 0,
  excluded: 0,
  belowFloor: 0,
  untouched: 0,
  recalls: null,
  recall: null,
  counts,
  overdue: [],
  coolingDown: null,
  waves: [],
};

test.each([
  { form: 'words', flags: [] },
  { form: 'JSON', flags: ['--json'] },
])(
  'rollout watch prints a line of $form for every change, and none for a time that only runs down',
  async ({ flags }) => {
    const countdown = ['1 min 1 s', '1 min', '59 s'];
    let asked = 0;
    const url = await serveAnswer(200, () => {
      const left = countdown[asked];
      asked += 1;
      return left === undefined
        ? { ...view, state: 'completed' }
        : { ...view, state: 'running', explanation: `opens in another ${left}` };
    });
    const ran = await runSluice(['rollout', 'watch', 'r1', '--url', url, '--token', 'x', ...flags]);
    expect(ran.out.trim().split('\n')).toEqual([
      expect.stringContaining('running'),
      expect.stringContaining('completed'),
    ]);
  },
);

test('rollout watch ends as the rollout does: 0 completed, 4 halted, 5 aborted', async () => {
  const ends = [];
  for (const state of ['completed', 'halted', 'aborted']) {
    const url = await serveAnswer(200, { ...view, state });
    const ran = await runSluice(['rollout', 'watch', 'r1', '--url', url, '--token', 'x']);
    ends.push([ran.code, ran.out.includes(state), ran.err.includes('because')]);
  }
  expect(ends).toEqual([
    [0, true, false],
    [4, true, true],
    [5, true, true],
  ]);
  const running = await serveAnswer(200, { ...view, state: 'running' });
  const late = await runSluice([
    'rollout',
    'watch',
    'r1',
    '--url',
    running,
    '--token',
    'x',
    '--timeout',
    '1ms',
    '--json',
  ]);
  expect(late).toMatchObject({ code: 1, err: expect.stringContaining('still running') });
  expect(JSON.parse(late.out)).toMatchObject({ state: 'running' });
});

test('a rollout whose devices were told to activate says when, not how to tell them', async () => {
  const policy = Policy.parse({ activation: 'on-command' });
  let activatedAt: number | null = null;
  const url = await serveAnswer(200, () => ({ ...view, policy, activatedAt, state: 'running' }));
  const show = ['rollout', 'show', 'r1', '--url', url, '--token', 'x'];
  expect((await runSluice(show)).out).toContain('when told: sluice rollout activate r1');
  activatedAt = 1_795_275_310_000;
  expect((await runSluice(show)).out).toMatch(/activation +told to at \d{4}-/);
});

test('a cohort that no one is in is warned of, and waves are counted from 1 as in the explanation', async () => {
  const waves = [{ devices: 1, counts }];
  const cohort = { name: 'x', members: { kind: 'selector', selector: 'ring=canary' }, createdAt: 0 };
  const url = await serveAnswer(200, (path) =>
    path.includes('/cohorts/')
      ? { ...cohort, devices: path.endsWith('canary') ? 0 : 1 }
      : { ...view, state: 'running', wave: 0, waves, notices: [] },
  );
  const cohorts = ['--cohort', 'canary', '--cohort', 'lyon'];
  const ran = await runSluice(['rollout', 'create', 'gateway@1.0.0', ...cohorts, '--url', url, '--token', 'x']);
  expect(ran).toMatchObject({ code: 0, err: expect.stringMatching(/^warning: no one is in cohort canary;.*\n$/) });
  expect(ran.out).toMatch(/WAVE +DEVICES +STATES\n +1 +1/);
});
