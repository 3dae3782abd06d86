import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openDevice, startTestServer, until } from './harness.ts';

/** Before anything else: the wall clock of the agent is off by what a file says, as if someone had set it. */
const SHIFTED = `
import { readFileSync } from 'node:fs';
const real = Date.now;
Date.now = () => {
  let by = 0;
  try { by = Number(readFileSync(process.env.TEST_CLOCK_FILE, 'utf8')); } catch {}
  return real() + by;
};`;
const APP = `
const { writeFileSync } = process.getBuiltinModule('node:fs');
const write = () => writeFileSync(process.env.SLUICE_DATA + '/alive', '');
write();
setInterval(write, 50);`;

const HOUR = 3_600_000;
const YEAR = 31_536_000_000;

for (const [words, setBy] of [
  ['an hour back', -HOUR],
  ['ten years forward', 10 * YEAR],
] as const) {
  test(`the clock is set ${words} while a version is on trial: it is committed, after a restart too, and stays healthy`, async () => {
    const server = await startTestServer();
    const device = await openDevice(server, { health: { intervalMs: 100 } });
    const clockFile = join(device.dir, 'clock');
    await writeFile(clockFile, '0');
    const env = {
      TEST_CLOCK_FILE: clockFile,
      NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(SHIFTED)}`,
    };
    const first = device.start(undefined, env);
    const checks = [
      { kind: 'process' as const, upMs: 300 },
      { kind: 'file' as const, path: '{data}/alive', withinMs: 30_000 },
    ];
    const health = { checks, soakMs: 600, deadlineMs: 120_000, intervalMs: 50 };
    const release = await server.publishRelease('1.0.0', APP, { health });
    server.desire(release.instruction);
    await until('it is on trial', () => first.states().at(-1) === 'trial');
    await writeFile(clockFile, String(setBy));
    first.kill();
    await first.ended;
    const second = device.start(undefined, env);
    await until(
      'it has an outcome',
      () => server.state.receipts.length === 1,
      60_000,
      () => second.lines,
    );
    expect(server.state.receipts).toMatchObject([{ outcome: 'committed' }]);
    const beats = server.state.heartbeats;
    await until('it is heard', () => server.state.heartbeats >= beats + 2);
    await writeFile(clockFile, String(-setBy));
    await until('it is heard again', () => server.state.heartbeats >= beats + 5);
    expect(server.state.healthy).toBe(true);
    expect(second.lines.map(({ event }) => event)).not.toContain('unhealthy');
    await second.stop();
  });
}
