/**
 * A real installer and a real agent, both killed before each step of the installer: every program that it writes with
 * stands behind one that counts.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { expect, test } from 'vitest';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { type McuPair, mcuPair } from './mcu.ts';

/** Runs the program of its own name further on in the path. Its parent is the installer, whose parent is the agent. */
const STEP = `#!/bin/sh
echo "\${0##*/}" >> "$STEPS"
if [ "$(wc -l < "$STEPS")" -eq "$CUT_AT" ]; then
  read -r _ _ _ agent _ < "/proc/$PPID/stat"
  kill -9 "$agent" "$PPID" $$
fi
PATH=\${PATH#*:}
exec "\${0##*/}" "$@"
`;

/** Goes on from wherever it finds itself, as agent/domain/install.ts does. */
const AGENT = `
  const { pino } = await import('pino');
  const { openCommandSlots } = await import('#agent/slots/delegate/command.ts');
  const [config, dir, { manifest, digest, fetched }] = JSON.parse(process.argv[1]);
  const slots = await openCommandSlots({ config, dir, compatible: 'gw', log: pino({ level: 'silent' }) });
  const done = async (step) => {
    const result = await step;
    if (result.ok !== true && result.booted !== 'b') throw new Error(JSON.stringify(result));
    return result;
  };
  const { view } = await done(slots.inspect());
  if (view.active === 'b') process.exit(0);
  if (view.trial === null) {
    await done(slots.prepare('b', manifest));
    await done(slots.write('b', manifest, digest, fetched));
    await done(slots.verify('b'));
    await done(slots.activate('b', { tries: 3, deployment: 'd1' }));
  }
  await done(slots.boot());
  await done(slots.commit());`;

const runAgent = async (pair: McuPair, release: object, cutAt: number) => {
  const shims = join(pair.dir, 'shims');
  await mkdir(shims, { recursive: true });
  for (const name of ['rm', 'dd', 'sync', 'mv']) await writeFile(join(shims, name), STEP, { mode: 0o755 });
  const steps = join(pair.dir, 'steps');
  const environment = {
    ...pair.config.environment,
    PATH: `${shims}${delimiter}${process.env['PATH']}`,
    STEPS: steps,
    CUT_AT: String(cutAt),
  };
  const input = JSON.stringify([{ ...pair.config, environment }, pair.records, release]);
  const agent = spawn(process.execPath, ['--input-type=module', '-e', AGENT, input], { stdio: 'inherit' });
  await once(agent, 'exit');
  const counted = (await readFile(steps, 'utf8')).split('\n').length - 1;
  return { steps: counted, code: agent.exitCode, signal: agent.signalCode };
};

test.runIf(ALL_SWEEPS)(
  '9: power cut of a virtual machine, random, many times: always boots a verified slot (here: before every step of an installer, with its agent)',
  async () => {
    const whole = await mcuPair();
    const { steps, code } = await runAgent(whole, await whole.release('1.1.0'), 0);
    expect(code).toBe(0);
    expect(steps).toBeGreaterThanOrEqual(12);
    const ends: unknown[] = [];
    for (let cutAt = 1; cutAt <= steps; cutAt += 1) {
      const pair = await mcuPair();
      const release = await pair.release('1.1.0');
      const firmware = await readFile(release.fetched[0]!.file, 'utf8');
      const killed = await runAgent(pair, release, cutAt);
      const running = await pair.get('running').catch(() => 'a');
      const boots = await pair.get(`bank-${running}`);
      const next = await runAgent(pair, release, 0);
      ends.push({
        cutAt,
        killed: killed.signal,
        bootsWhole: ['as it left the factory', firmware.trim()].includes(boots),
        next: next.code,
        active: await pair.get('active'),
        holds: (await pair.get('bank-b')) === firmware.trim(),
      });
    }
    expect(ends).toEqual(
      ends.map((_, index) => ({
        cutAt: index + 1,
        killed: 'SIGKILL',
        bootsWhole: true,
        next: 0,
        active: 'b',
        holds: true,
      })),
    );
  },
  900_000,
);
