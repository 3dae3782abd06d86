import { expect, test } from 'vitest';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { APPS, openDevice, type RunningAgent, startTestServer, until } from './harness.ts';

const has = (agent: RunningAgent, event: string): boolean => agent.lines.some((line) => line.event === event);
/** More than enough, in time and number, for an offer that allows it. */
const inVain = (agent: RunningAgent, since: number): boolean => performance.now() - since > 2_500 && retried(agent) > 5;
const retried = (agent: RunningAgent): number =>
  agent.lines.filter(({ event }) => event === 'confirmation-retried').length;

/**
 * Installed, and waiting for a moment that is a little ahead. The server confirms nothing until it is told to, however
 * long it takes to cut it off.
 */
const installed = async (
  more: { confirm?: 'when-reachable' },
  options: { environment?: Record<string, string>; serverContact?: boolean } = {},
) => {
  const server = await startTestServer();
  const device = await openDevice(server, { unreachableMs: 1_000, reconnect: { firstMs: 20, maxMs: 100 } });
  const agent = device.start(undefined, options.environment);
  const { instruction } = await server.publishRelease('1.0.0', APPS.good, {
    health: { soakMs: 300, deadlineMs: 120_000, intervalMs: 50, serverContact: options.serverContact ?? false },
  });
  // First told to wait for a command, so that however slow the machine is, it is installed before the time.
  server.desire({ ...instruction, activateAt: null });
  await until('it is installed', () => agent.states().at(-1) === 'ready');
  server.state.answerDesired = false;
  const activateAt = Date.now() + 1_500;
  server.desire({ ...instruction, activateAt, ...more });
  await until('the agent heard of the time', () => server.state.reports.at(-1)?.desiredSeq === 2);
  const comeBack = (): void => void Object.assign(server.state, { offline: false, answerDesired: true });
  return { server, agent, activateAt, instruction, comeBack };
};

test('a device that is offline at the time activates with the others, where its instruction allows it', async () => {
  const { server, agent, activateAt, comeBack } = await installed({ confirm: 'when-reachable' });
  server.goOffline();
  await until('it activates', () => has(agent, 'activating-unconfirmed'));
  expect(Date.now()).toBeGreaterThanOrEqual(activateAt + 1_000);
  await until('it has committed', () => agent.states().at(-1) === 'committed');
  comeBack();
  await until('its receipt has come', () => server.state.receipts.length === 1);
  expect(server.state.receipts).toMatchObject([{ outcome: 'committed' }]);
  await agent.stop();
});

test.runIf(ALL_SWEEPS)('without that permission it stays ready until the server can be asked', async () => {
  const { server, agent, comeBack } = await installed({});
  server.goOffline();
  await until('it begins to ask', () => retried(agent) > 0);
  const since = performance.now();
  await until('it has asked in vain for long', () => inVain(agent, since));
  expect(agent.states().at(-1)).toBe('ready');
  comeBack();
  await until('it has committed', () => server.state.receipts.length === 1);
  expect(has(agent, 'activating-unconfirmed')).toBe(false);
  await agent.stop();
});

test.runIf(ALL_SWEEPS)(
  'a release that proves its health by reaching the server waits for the server: offline its trial could only fail',
  async () => {
    const { server, agent, comeBack } = await installed({ confirm: 'when-reachable' }, { serverContact: true });
    server.goOffline();
    await until('it begins to ask', () => retried(agent) > 0);
    const since = performance.now();
    await until('it has asked in vain for long', () => inVain(agent, since));
    expect(agent.states().at(-1)).toBe('ready');
    comeBack();
    await until('it has committed', () => server.state.receipts.length === 1);
    expect(server.state.receipts).toMatchObject([{ outcome: 'committed' }]);
    await agent.stop();
  },
);

test.runIf(ALL_SWEEPS)('a server that answers, however badly, is not unreachable: what it says counts', async () => {
  const { server, agent } = await installed({ confirm: 'when-reachable' });
  await until('it begins to ask', () => retried(agent) > 0);
  const since = performance.now();
  await until('it has asked in vain for long', () => inVain(agent, since));
  expect(agent.states().at(-1)).toBe('ready');
  server.desire({ kind: 'none', reason: 'withdrawn' });
  await until('it is withdrawn', () => server.state.receipts.length === 1);
  expect(server.state.receipts).toMatchObject([{ outcome: 'withdrawn' }]);
  await agent.stop();
});

test('a device whose clock is an hour ahead waits by the server’s clock', async () => {
  const ahead = '--import=data:text/javascript,const%20n=Date.now;Date.now=()=>n()+3600000';
  const { server, agent, activateAt, comeBack } = await installed({}, { environment: { NODE_OPTIONS: ahead } });
  comeBack();
  await until('it has committed', () => server.state.receipts.length === 1);
  const activated = server.state.reports.find(({ deployment }) => deployment?.state === 'activating');
  expect(Date.now()).toBeGreaterThanOrEqual(activateAt);
  expect((activated?.deployment?.since ?? Number.POSITIVE_INFINITY) - 3_600_000).toBeGreaterThanOrEqual(
    activateAt - 50,
  );
  await agent.stop();
});
