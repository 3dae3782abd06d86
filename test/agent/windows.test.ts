import { expect, test } from 'vitest';
import { APPS, openDevice, type RunningAgent, startTestServer, until } from './harness.ts';

const events = (agent: RunningAgent): (string | undefined)[] => agent.lines.map(({ event }) => event);

test('a device waits for its window, installs, stays ready until it is told to activate', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start();
  const one = await server.publishRelease('1.0.0', APPS.good);
  const windows = [{ opens: Date.now() + 3_000, closes: Date.now() + 3_600_000 }];
  server.desire({ ...one.instruction, windows, activateAt: null });
  await until('it is held back', () => events(agent).includes('held-back'));
  expect(agent.states()).not.toContain('fetching');
  expect(Date.now()).toBeLessThan(windows[0]!.opens);
  await until('it is installed', () => agent.states().at(-1) === 'ready', 20_000);
  await until('it is held back again', () => events(agent).filter((event) => event === 'held-back').length === 2);
  server.desire({ ...one.instruction, windows });
  await until('it has committed', () => server.state.receipts.length === 1, 20_000);
  expect(server.state.receipts).toMatchObject([{ outcome: 'committed' }]);
  await agent.stop();
});
