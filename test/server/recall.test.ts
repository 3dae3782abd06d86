/**
 * A recall end to end: the real server, real agents in processes of their own, real bundles. A release that commits on
 * two devices and fails on the third halts by itself, and the two run again what they ran before, without fetching
 * anything.
 */

import { cp, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { type Client, openClient } from '#cli/client.ts';
import { checkBundle, type PublishSteps, publishRelease } from '#cli/publish.ts';
import { type RunningServer, startServer } from '#server/main.ts';
import { routes } from '#shared/api.ts';
import { createBundle } from '#shared/create-bundle.ts';
import { Id } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';
import { TIME_ZONE_ATTRIBUTE } from '#shared/windows.ts';
import { openDevice, type RunningAgent, until } from '#test/agent/harness.ts';
import { runSluice } from '#test/cli/run.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { configFor, newFolder, removeFolder } from './running.ts';

let dir: string;
let server: RunningServer;
beforeEach(async () => {
  dir = await newFolder();
  server = await startServer(configFor(join(dir, 'data')));
});
afterEach(async () => {
  await server.stop();
  await removeFolder(dir);
});

const must = <T>(result: { ok: true; value: T } | { ok: false; detail: string }): T => {
  if (!result.ok) throw new Error(result.detail);
  return result.value;
};
const GATEWAY = Id.parse('gateway');
/** Runs forever; a device whose application folder says so cannot bear the version. */
const appOf = (version: string): string => `// ${version}
import { existsSync, writeFileSync } from 'node:fs';
if (existsSync(process.env.SLUICE_DATA + '/no-${version}')) process.exit(3);
writeFileSync(process.env.SLUICE_DATA + '/alive-${version}', '');
setInterval(() => {}, 1000);
`;

const publish = async (client: Client, ci: Signer, version: string): Promise<void> => {
  const work = join(dir, version);
  await mkdir(work);
  await writeFile(join(work, 'app.mjs'), appOf(version));
  await writeFile(join(work, 'ballast'), Buffer.alloc(300_000, version));
  const file = join(work, 'gateway.sluice');
  must(
    await createBundle({
      manifest: {
        product: GATEWAY,
        version,
        compatible: Id.parse('gw-test'),
        securityCounter: 1,
        run: { command: ['node', 'app.mjs'] },
        health: {
          checks: [{ kind: 'command', command: ['test', '-f', `../../application/alive-${version}`] }],
          soakMs: 100,
          deadlineMs: 120_000,
          intervalMs: 50,
        },
      },
      artifacts: ['app.mjs', 'ballast'].map((path) => ({
        name: path.replace('.mjs', ''),
        file: join(work, path),
        install: { kind: 'file', path },
      })),
      out: file,
    }),
  );
  const steps: PublishSteps = { checking: checkBundle, sending: (_, send) => send(() => {}), again: () => {} };
  await publishRelease(client, { files: [file], signer: ci, now: Date.now }, steps);
  const params = { release: `gateway@${version}` };
  await client.call(routes.releaseStage, { params, body: { channel: Id.parse('production') } });
};

/** Agents in processes of their own; the last cannot bear 1.1.0. */
const startFleet = async (client: Client, names: readonly Id[]): Promise<RunningAgent[]> => {
  const { tokens } = await client.call(routes.enrolmentTokenCreate, { body: { count: names.length } });
  const agents: RunningAgent[] = [];
  for (const [index, device] of names.entries()) {
    const { dataDir, start } = await openDevice(
      { url: server.httpUrl, token: tokens[index]! },
      { device, heartbeatMs: 1_000 },
    );
    if (index === names.length - 1) {
      await mkdir(join(dataDir, 'application'), { recursive: true });
      await writeFile(join(dataDir, 'application', 'no-1.1.0'), '');
    }
    agents.push(start());
  }
  return agents;
};

/** How often the server was asked for an object. */
const objectRequests = async (): Promise<number> => {
  const headers = { authorization: `Bearer ${server.adminToken}` };
  const text = await (await fetch(`${server.httpUrl}/metrics`, { headers })).text();
  const lines = text.matchAll(/^sluice_http_request_seconds_count\{[^}]*route="\/o\/[^}]*\} (\d+)$/gm);
  return [...lines].reduce((sum, [, count]) => sum + Number(count), 0);
};

/** To the cohort `all`. */
const rolloutsOf = (client: Client) => {
  const start = (version: string, policy: z.input<typeof Policy>) =>
    client.call(routes.rolloutCreate, {
      body: { release: `gateway@${version}`, cohorts: [{ cohort: Id.parse('all') }], policy },
    });
  const show = (rollout: string) => client.call(routes.rolloutShow, { params: { rollout: Id.parse(rollout) } });
  const ends = async (rollout: string, state: string): Promise<void> =>
    until(
      `${rollout} is ${state}`,
      async () => (await show(rollout)).state === state,
      120_000,
      () => show(rollout),
    );
  return { start, show, ends };
};

test('what two devices committed and a third could not bear is recalled by its halt: they run again what they ran, and fetched nothing', async () => {
  const client = openClient({ url: server.httpUrl, token: server.adminToken! });
  const ci = must(signerFromPem(generatePrivateKey('ed25519')));
  await client.call(routes.productCreate, { body: { name: GATEWAY, keys: [publicKeyPem(ci.key)] } });
  await publish(client, ci, '1.0.0');
  await publish(client, ci, '1.1.0');
  const names = ['gw-1', 'gw-2', 'gw-3'].map((name) => Id.parse(name));
  const agents = await startFleet(client, names);
  const runs = async (): Promise<(string | undefined)[]> =>
    (await client.call(routes.deviceList, { query: {} })).items.map(({ running }) => running?.version);
  await until('all are let in', async () => (await runs()).length === 3);
  await client.call(routes.cohortCreate, { body: { name: Id.parse('all'), devices: names } });

  const { start, show, ends } = rolloutsOf(client);
  const rule = { rule: 'percentage-after-minimum' as const, percent: 20, minimum: 3 };
  await ends((await start('1.0.0', { judge: rule })).id, 'completed');

  const bad = await start('1.1.0', { judge: rule, onHalt: 'recall', gate: { successShare: 0.5, soakMs: 0 } });
  await ends(bad.id, 'halted');
  const fetchedBefore = await objectRequests();
  await ends(`${bad.id}-r1`, 'completed');

  expect(await show(bad.id)).toMatchObject({
    counts: { committed: 2, reverted: 1 },
    recall: { by: 'server', rollouts: [{ id: `${bad.id}-r1`, release: 'gateway@1.0.0', devices: 2 }], stays: [] },
  });
  expect(await show(`${bad.id}-r1`)).toMatchObject({ recalls: bad.id, counts: { committed: 2 } });
  await until('all report 1.0.0', async () => (await runs()).every((version) => version === '1.0.0'));
  // Both releases were fetched by each of the three; nothing on the way back.
  expect(fetchedBefore).toBeGreaterThanOrEqual(6);
  expect(await objectRequests()).toBe(fetchedBefore);
  const { entries } = await client.call(routes.deviceHistory, { params: { device: names[0]! }, query: {} });
  const receipts = entries.filter(({ verified }) => verified !== null);
  expect(receipts.map(({ release, outcome, verified }) => [release, outcome, verified])).toEqual([
    ['gateway@1.0.0', 'committed', true],
    ['gateway@1.1.0', 'committed', true],
    ['gateway@1.0.0', 'committed', true],
  ]);
  const environment = { SLUICE_URL: server.httpUrl, SLUICE_TOKEN: server.adminToken! };
  const shown = await runSluice(['rollout', 'show', bad.id], { environment, cwd: dir });
  expect(shown.out).toMatch(new RegExp(`RECALLED WITH +BACK TO +DEVICES\\n${bad.id}-r1 +gateway@1.0.0 +2`));
  const resumed = await runSluice(['rollout', 'resume', bad.id, '--note', 'x'], { environment, cwd: dir });
  expect(resumed).toMatchObject({ code: 1, err: expect.stringContaining('was recalled') });
  const again = await runSluice(['rollout', 'recall', bad.id], { environment, cwd: dir });
  const nobody = `No one is left to recall: each device that ran gateway@1.1.0 because of ${bad.id} went back, is on the way, or runs something else by now.\n`;
  expect(again).toMatchObject({ code: 0, out: nobody });
  for (const agent of agents) await agent.stop();
}, 300_000);

// Found by hand: such a device was acknowledged, and nothing that it reported was kept.
test.runIf(ALL_SWEEPS)(
  'a device whose data folder is put back from a backup is found to drift, is sent back, and is heard, also when its clock once ran ahead',
  async () => {
    const client = openClient({ url: server.httpUrl, token: server.adminToken! });
    const ci = must(signerFromPem(generatePrivateKey('ed25519')));
    await client.call(routes.productCreate, { body: { name: GATEWAY, keys: [publicKeyPem(ci.key)] } });
    for (const version of ['1.0.0', '1.1.0', '1.2.0']) await publish(client, ci, version);
    const gw1 = Id.parse('gw-1');
    const { tokens } = await client.call(routes.enrolmentTokenCreate, { body: { count: 1 } });
    const { dataDir, start: startAgent } = await openDevice(
      { url: server.httpUrl, token: tokens[0]! },
      { device: gw1, heartbeatMs: 500 },
    );
    let agent = startAgent();
    await client.call(routes.cohortCreate, { body: { name: Id.parse('all'), devices: [gw1] } });
    await until(
      'it is let in',
      async () => (await client.call(routes.deviceList, { query: {} })).items.length === 1,
      120_000,
    );
    const { start, ends } = rolloutsOf(client);
    await ends((await start('1.0.0', {})).id, 'completed');
    await agent.stop();
    await cp(dataDir, `${dataDir}.backup`, { recursive: true });
    agent = startAgent();
    await ends((await start('1.1.0', {})).id, 'completed');
    // What it cannot bear is not wanted of it any more: nothing that it was told leads it on by itself.
    await writeFile(join(dataDir, 'application', 'no-1.2.0'), '');
    await ends((await start('1.2.0', {})).id, 'halted');
    await until(
      'it says that it went back',
      async () => {
        const { items } = await client.call(routes.auditList, { query: { limit: 500 } });
        // From wherever its last report left it: those of states that follow one another quickly travel together.
        return items.some(({ sentence }) => /moved from \w+ to reverted/.test(sentence));
      },
      120_000,
    );
    await agent.stop();
    // Numbers of reports are above the clock: what is put back knows none as high as those of a life in another
    // century.
    const zone = 'Pacific/Chatham';
    const ahead = `--import=data:text/javascript,const%20n=Date.now;Date.now=()=>n()+${Date.UTC(2100) - Date.now()}`;
    agent = startAgent(undefined, { NODE_OPTIONS: ahead, TZ: zone });
    await until(
      'it is heard with a clock that runs ahead',
      async () =>
        (await client.call(routes.deviceShow, { params: { device: gw1 } })).attributes[TIME_ZONE_ATTRIBUTE] === zone,
      120_000,
    );
    await agent.stop();
    await rm(dataDir, { recursive: true });
    await rename(`${dataDir}.backup`, dataDir);
    agent = startAgent();
    const drifted = async () => (await client.call(routes.driftList, { query: {} })).items;
    await until('it drifts', async () => (await drifted()).length === 1, 120_000, drifted);
    expect(await drifted()).toMatchObject([{ running: { version: '1.0.0' }, expected: { version: '1.1.0' } }]);
    const environment = { SLUICE_URL: server.httpUrl, SLUICE_TOKEN: server.adminToken! };
    const sent = await runSluice(['device', 'reconcile', '--all', '--json'], { environment, cwd: dir });
    const [back] = z.array(z.object({ id: z.string(), release: z.string() })).parse(JSON.parse(sent.out));
    expect(back).toMatchObject({ release: 'gateway@1.1.0' });
    await ends(back!.id, 'completed');
    expect(await drifted()).toEqual([]);
    await agent.stop();
  },
  300_000,
);
