import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Status } from '#agent/local/status-file.ts';
import { signDesired } from '#server/trust/director.ts';
import { Id } from '#shared/ids.ts';
import type { Desired } from '#shared/messages.ts';
import { generatePrivateKey, signerFromPem } from '#shared/trust/signers.ts';
import {
  APPS,
  DEVICE,
  type LogLine,
  NEVER_WELL,
  openDevice,
  type RunningAgent,
  startTestServer,
  until,
} from './harness.ts';

const idle = (agent: RunningAgent) => (): boolean => agent.states().at(-1) === 'idle';
const events = (agent: RunningAgent): (string | undefined)[] => agent.lines.map(({ event }) => event);

test('a version is installed, proven on trial, committed, and reported exactly once; a bad one returns to it', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start();
  const first = await server.publishRelease('1.0.0', APPS.good);
  server.desire(first.instruction);
  await until('the first version is reported', idle(agent), 60_000, () => agent.lines);
  expect(server.state.receipts).toMatchObject([
    {
      device: DEVICE,
      deployment: 'dep-1-0-0',
      rollout: 'rol-1-0-0',
      outcome: 'committed',
      running: { version: '1.0.0', slot: 'a' },
    },
  ]);
  const journey = [
    'accepted',
    'waiting',
    'fetching',
    'verified',
    'ready',
    'activating',
    'trial',
    'committing',
    'committed',
    'reported',
    'idle',
  ];
  expect(agent.states()).toEqual(journey);

  const bad = await server.publishRelease('1.1.0', APPS.crashing, { securityCounter: 2, ...NEVER_WELL });
  server.desire(bad.instruction);
  await until(
    'the bad version is reported',
    () => server.state.receipts.length === 2 && idle(agent)(),
    60_000,
    () => agent.lines,
  );
  expect(server.state.receipts[1]).toMatchObject({
    deployment: 'dep-1-1-0',
    outcome: 'reverted',
    error: { code: 'TRIAL_CRASHED' },
    running: { version: '1.0.0', slot: 'a' },
  });
  expect(agent.states().slice(-6)).toEqual(['trial', 'reverting', 'verifying-revert', 'reverted', 'reported', 'idle']);
  await until('heartbeats come', () => server.state.heartbeats > 0);
  // The floor is what was committed, not what was tried.
  await until('it reports that nothing goes on', () => server.state.reports.at(-1)?.deployment === null);
  expect(server.state.reports.at(-1)).toMatchObject({ floor: 1, desiredSeq: 2, running: { version: '1.0.0' } });
  const numbers = server.state.reports.map(({ seq }) => seq);
  expect(numbers).toEqual([...new Set(numbers)].sort((one, other) => one - other));
  // It is written beside what is reported, not before.
  const status = async () => JSON.parse(await readFile(join(device.dataDir, 'status.json'), 'utf8')) as Status;
  await until('its file says so too', async () => (await status()).state === 'idle');
  expect(await status()).toMatchObject({ state: 'idle', running: { version: '1.0.0' }, connected: true });
  expect((await stat(join(device.dataDir, 'device.key'))).mode & 0o777).toBe(0o600);

  // The committed version runs again after a restart, also without a server.
  expect(await agent.stop()).toEqual({ code: 0, signal: null });
  expect(agent.errorOutput()).toBe('');
  await server.stop();
  const offline = device.start();
  await until('it runs offline', async () => {
    const text = await readFile(join(device.dataDir, 'supervisor', 'application.json'), 'utf8').catch(() => undefined);
    return text !== undefined;
  });
  await offline.stop();
});

test('an offer is withdrawn, superseded or left to expire before activation, and then never runs', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start();
  const one = await server.publishRelease('1.0.0', APPS.good);
  const two = await server.publishRelease('2.0.0', APPS.good);
  const three = await server.publishRelease('3.0.0', APPS.good);
  server.state.answerDesired = false;
  server.desire(one.instruction);
  await until(
    'the first is ready, and waits to be confirmed',
    () => agent.states().at(-1) === 'ready',
    60_000,
    () => agent.lines,
  );
  server.desire({ kind: 'none', reason: 'the rollout has halted' });
  await until('it is withdrawn', () => server.state.receipts.length === 1 && idle(agent)());
  server.desire(two.instruction);
  await until('the second is ready', () => agent.states().at(-1) === 'ready');
  server.desire(three.instruction);
  const isThird = ({ state, deployment }: LogLine): boolean => state === 'ready' && deployment === 'dep-3-0-0';
  await until('the second is superseded, and the third is ready', () => agent.lines.some(isThird));
  // Signed again, for a short while: however long it took to get there.
  server.desire(three.instruction, { expires: Date.now() + 5_000 });
  await until(
    'the third expires unasked',
    () => server.state.receipts.length === 3 && idle(agent)(),
    60_000,
    () => agent.lines,
  );
  expect(server.state.receipts).toMatchObject([
    { deployment: 'dep-1-0-0', outcome: 'withdrawn', running: null },
    { deployment: 'dep-2-0-0', outcome: 'withdrawn' },
    { deployment: 'dep-3-0-0', outcome: 'failed', error: { code: 'INSTRUCTION_EXPIRED' } },
  ]);
  expect(agent.states()).not.toContain('activating');
  await agent.stop();
});

test('what the server says when asked right before activation counts, even if it never pushed it', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start();
  const one = await server.publishRelease('1.0.0', APPS.good);
  await mkdir(device.dataDir, { recursive: true });
  await writeFile(join(device.dataDir, 'inhibit'), '');
  server.desire(one.instruction);
  await until('a local program holds it back', () => events(agent).includes('inhibited'));
  // Its push is lost on the way: only the question finds out.
  server.desire({ kind: 'none', reason: 'halted' }, { push: false });
  await rm(join(device.dataDir, 'inhibit'));
  await until('it is withdrawn', () => server.state.receipts.length === 1);
  expect(server.state.receipts).toMatchObject([{ outcome: 'withdrawn' }]);
  expect(agent.states()).toContain('ready');
  expect(agent.states()).not.toContain('activating');
  await agent.stop();
});

test('16: forged signature, expired metadata, start: rejected, nothing written to a slot; 17: lower security counter, replayed offer, start: rejected, floor unchanged', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start();
  const one = await server.publishRelease('1.0.0', APPS.good, { securityCounter: 5 });
  const old = server.desire({ ...one.instruction, deployment: Id.parse('dep-old') }, { seq: 1 });
  await until(
    'the first is committed',
    () => server.state.receipts.length === 1 && idle(agent)(),
    60_000,
    () => agent.lines,
  );

  const thief = signerFromPem(generatePrivateKey('ed25519'));
  if (!thief.ok) throw new Error(thief.detail);
  const two = await server.publishRelease('2.0.0', APPS.good, { securityCounter: 4 });
  const forge = (seq: number): Desired => {
    const times = { issuedAt: Date.now(), expires: Date.now() + 60_000 };
    const leaf = { type: 'sluice/desired/1' as const, device: DEVICE, seq, ...times, instruction: two.instruction };
    return signDesired(thief.value, [leaf], times)[0]!;
  };
  server.push(forge(9));
  await until('the forgery is refused', () => agent.lines.some(({ code }) => code === 'INSTRUCTION_SIGNATURE'));
  server.push(old);
  server.push({ leaf: '{}', index: 0, proof: [], batch: forge(9).batch });
  server.desire(two.instruction, { seq: 7, expires: Date.now() - 1_000 });
  await until('what has expired is refused', () => agent.lines.some(({ code }) => code === 'INSTRUCTION_EXPIRED'));
  server.desire(two.instruction, { seq: 7, device: Id.parse('gw-02') });
  await until("another device's is refused", () => agent.lines.some(({ code }) => code === 'INSTRUCTION_NOT_FOR_ME'));
  expect(await readdir(join(device.dataDir, 'slots'))).not.toContain('b');
  const committedStates = agent.states().length;

  server.desire(two.instruction, { seq: 8 });
  await until('the downgrade is refused', () => server.state.receipts.length === 2);
  expect(server.state.receipts[1]).toMatchObject({
    outcome: 'failed',
    error: { code: 'DOWNGRADE' },
    running: { version: '1.0.0' },
  });
  expect(agent.states().slice(committedStates, committedStates + 2)).toEqual(['accepted', 'failed']);
  await until('it says so', () => server.state.reports.at(-1)?.deployment === null);
  expect(server.state.reports.at(-1)).toMatchObject({ floor: 5 });
  await agent.stop();
});

test('a connection that flaps costs nothing but time', async () => {
  const server = await startTestServer();
  const device = await openDevice(server, { reconnect: { firstMs: 20, maxMs: 100 } });
  const agent = device.start();
  const one = await server.publishRelease('1.0.0', APPS.good);
  server.desire(one.instruction);
  for (let times = 1; times <= 5; times += 1) {
    await until(
      `it has connected ${times} times`,
      () => events(agent).filter((event) => event === 'connected').length >= times,
    );
    server.dropConnections();
  }
  await until(
    'it is committed and reported',
    () => server.state.receipts.length === 1 && idle(agent)(),
    60_000,
    () => agent.lines,
  );
  expect(server.state.receipts).toMatchObject([{ outcome: 'committed' }]);
  await agent.stop();
});

test('a device waits until an operator accepts it, and may trust on first use if told so', async () => {
  const server = await startTestServer();
  server.state.admit = false;
  const device = await openDevice(server, { token: undefined, trustOnFirstUse: true });
  const agent = device.start();
  await until('it waits', () => events(agent).includes('enrolment-pending'));
  server.state.admit = true;
  await until(
    'it is connected',
    () => events(agent).includes('connected'),
    60_000,
    () => agent.lines,
  );
  expect(events(agent)).toContain('trust-on-first-use');
  await agent.stop();
});

test('a device whose clock is wrong learns the time of its server, and logs in', async () => {
  const hours = 3 * 3_600_000;
  const server = await startTestServer(undefined, () => Date.now() + hours);
  const device = await openDevice(server);
  const agent = device.start();
  const one = await server.publishRelease('1.0.0', APPS.good);
  server.desire(one.instruction, { expires: Date.now() + 2 * hours });
  await until(
    'it is committed',
    () => server.state.receipts.length === 1,
    60_000,
    () => agent.lines,
  );
  expect(await agent.stop()).toMatchObject({ code: 0 });
  // The second start has no enrolment to learn from: the refused login is asked about over HTTP.
  const again = device.start();
  await until(
    'it is connected again',
    () => events(again).includes('connected'),
    60_000,
    () => again.lines,
  );
  await again.stop();
});

test('while MQTT cannot be reached the desired document is polled over HTTP', async () => {
  const server = await startTestServer();
  const device = await openDevice(server, { mqttUrl: 'mqtt://127.0.0.1:1', pollMs: 300 });
  const agent = device.start();
  const one = await server.publishRelease('1.0.0', APPS.good);
  server.desire(one.instruction);
  await until(
    'it is committed',
    () => agent.states().at(-1) === 'committed',
    60_000,
    () => agent.lines,
  );
  expect(events(agent)).not.toContain('connected');
  await agent.stop();
});

test('an agent that cannot run says why in a sentence', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start();
  await until('it is connected', () => events(agent).includes('connected'));
  const second = device.start();
  expect(await second.ended).toEqual({ code: 1, signal: null });
  expect(second.errorOutput()).toBe(`sluice agent: another agent uses the data folder ${device.dataDir}\n`);
  await agent.stop();

  const distrustful = await openDevice(server, { token: undefined });
  const stopped = distrustful.start();
  expect(await stopped.ended).toMatchObject({ code: 1 });
  expect(stopped.errorOutput()).toContain('does not know whom to trust');

  const elsewhere = await openDevice(server, { token: `sle_${'A'.repeat(43)}_${'A'.repeat(43)}` });
  const misled = elsewhere.start();
  expect(await misled.ended).toMatchObject({ code: 1 });
  expect(misled.errorOutput()).toContain('shows another trust root');
});
