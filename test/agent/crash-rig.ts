/**
 * What the crash tests share: one server, and a device that has committed 1.0.0, whose data folder each test copies.
 */
import { cp, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, vi } from 'vitest';
import { APPS, openDevice, type Published, startTestServer, until } from './harness.ts';

// Longer than all waits of a test together, so that a wait that is in vain says so itself, with what is known.
const DEADLINE_MS = 90_000;
const TIMEOUTS = { testTimeout: 5 * DEADLINE_MS, hookTimeout: 2 * DEADLINE_MS };

/** For all tests of a file. */
export const openCrashRig = async () => {
  vi.setConfig(TIMEOUTS);
  const finishers: (() => Promise<void>)[] = [];
  const later = (stop: () => Promise<void>): void => void finishers.unshift(stop);
  afterAll(async () => {
    for (const finish of finishers) await finish();
  });
  const server = await startTestServer(later);
  const settled = await openDevice(server, {}, later);
  const agent = settled.start();
  server.desire((await server.publishRelease('1.0.0', APPS.good)).instruction);
  await until('1.0.0 is committed', () => agent.states().at(-1) === 'idle');
  await agent.stop();
  let versions = 0;
  const forget = (): void =>
    void Object.assign(server.state, {
      desired: null,
      acknowledge: true,
      reports: [],
      receipts: [],
      requests: [],
      onObject: () => false,
    });
  beforeEach(forget);

  const settledDevice = async (finished?: (stop: () => Promise<void>) => void) => {
    // The agent that was here before has gone, and nothing of it is on its way any more.
    await until('the broker has noticed', server.nobodyIsConnected, DEADLINE_MS);
    forget();
    const device = await openDevice(server, {}, finished);
    await cp(settled.dataDir, device.dataDir, { recursive: true });
    return device;
  };
  type Device = Awaited<ReturnType<typeof settledDevice>>;

  return {
    server,
    settledDevice,
    publishNext: (script: string, more = {}) => {
      versions += 1;
      return server.publishRelease(`1.1.${versions}`, script, more);
    },
    /** Offers a new version to an agent that kills itself at the step, and waits until it has. */
    crashAt: async (device: Device, step: string, script: string = APPS.good, more = {}): Promise<Published> => {
      const agent = device.start(step);
      versions += 1;
      const release = await server.publishRelease(`1.1.${versions}`, script, more);
      server.desire(release.instruction);
      const facts = () => [agent.lines.map(({ msg }) => msg), agent.errorOutput(), server.state.requests];
      await until(`it is killed at ${step}`, agent.hasEnded, DEADLINE_MS, facts);
      const ended = await agent.ended;
      expect(ended, `${step}: ${agent.errorOutput()}`).toEqual({ code: null, signal: 'SIGKILL' });
      await until('the broker has noticed', server.nobodyIsConnected, DEADLINE_MS);
      return release;
    },
    /** Restarts the agent (which would die at `killAt`), and waits until the deployment is reported and it is idle. */
    finish: async (device: Device, killAt?: string, environment?: Record<string, string>) => {
      const before = server.state.receipts.length;
      const agent = device.start(killAt, environment);
      const facts = () => [agent.lines.map(({ msg }) => msg), agent.errorOutput()];
      const isDone = () => server.state.receipts.length > before && agent.states().at(-1) === 'idle';
      await until('it reports the outcome and is idle', isDone, DEADLINE_MS, () => [facts(), server.state.requests]);
      await until('it reports what runs', () => server.state.reports.at(-1)?.deployment === null, DEADLINE_MS, facts);
      return agent;
    },
    expectCommitted: (release: Published): void => {
      const outcomes = server.state.receipts.map(({ deployment, outcome }) => [deployment, outcome]);
      expect(outcomes).toEqual([[release.instruction.deployment, 'committed']]);
      expect(server.state.reports.at(-1)).toMatchObject({ running: { version: release.version, slot: 'b' } });
    },
    requestsOf: (sha256: string): number[] =>
      server.state.requests.filter((request) => request.sha256 === sha256).map(({ from }) => from),
    isBootable: (device: Device, slot: string): Promise<boolean> =>
      stat(join(device.dataDir, 'slots', `${slot}.json`)).then(
        () => true,
        () => false,
      ),
  };
};
