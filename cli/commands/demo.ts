/** `sluice demo`: the main job on this machine, in under a minute, with real processes. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Command } from 'commander';
import { withExamples } from '../command.ts';
import { openProcesses, type Processes } from '../demo/processes.ts';
import { type Finale, tellStory } from '../demo/story.ts';
import { openView } from '../demo/view.ts';
import { CliFailure } from '../failure.ts';
import { untilStopped } from '../running.ts';
import { paint, print, printError, printJson } from '../terminal.ts';

type Flags = { keep?: boolean; json?: boolean };

const runDemo = async (flags: Flags): Promise<void> => {
  const startedAt = performance.now();
  const folder = await mkdtemp(join(tmpdir(), 'sluice-demo-'));
  const signal = untilStopped();
  const processes = openProcesses(folder);
  let keepLogs = false;
  try {
    const finale = await tellStory({ folder, processes, view: openView(startedAt), signal });
    showFinale(finale, (performance.now() - startedAt) / 1000);
    if (flags.keep === true) {
      sayHowToLook(finale, folder);
      if (flags.json === true) printJson(finale.result);
      await Promise.race([untilAborted(signal), processes.failure]);
    } else if (flags.json === true) printJson(finale.result);
  } catch (error) {
    if (signal.aborted) {
      printError(`\nStopped by ${String(signal.reason)}; cleaning up.`);
      process.exitCode = 130;
      return;
    }
    keepLogs = true;
    printError(`\nThe demo did not work. The logs are kept in ${folder}`);
    throw await rootOf(error, processes);
  } finally {
    await processes.stop();
    if (!keepLogs) await rm(folder, { recursive: true, force: true });
  }
};
/** When a process ended, that is the reason, and not whatever noticed first that it is gone. */
const rootOf = async (noticed: unknown, processes: Processes): Promise<CliFailure> => {
  const ended = processes.failure.catch((failure: unknown) => failure);
  const cause: unknown = (await Promise.race([ended, pause(500)])) ?? noticed;
  return cause instanceof CliFailure ? cause : new CliFailure(messageOf(cause), { cause });
};
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });

const showFinale = (finale: Finale, seconds: number): void => {
  for (const { device, steps } of finale.histories) print(`         ${device}  ${steps.join(', then ')}`);
  print(
    `         ${paint.green('verified')}: ${finale.result.audit.entries} log entries, ${finale.receipts} of them receipts that devices signed`,
  );
  print(`\n${paint.bold(`In ${seconds.toFixed(0)} seconds`)}`);
  for (const rollout of finale.result.rollouts) {
    const good = rollout.state === 'completed';
    const harmed = rollout.reverted + rollout.failed + rollout.overdue;
    const words = good
      ? `reached all ${rollout.committed} devices`
      : `stopped by itself: ${harmed} of ${rollout.devices} tried it and went back, ${rollout.untouched} were never touched`;
    print(`  ${good ? paint.green(rollout.release) : paint.red(rollout.release)}  ${words}`);
  }
};

const sayHowToLook = (finale: Finale, folder: string): void => {
  print(`
Everything goes on running until Ctrl-C. To look around, in another terminal:

  export SLUICE_URL=${finale.url} SLUICE_TOKEN=${finale.adminToken}
  npx sluice device list
  npx sluice device history gw-01
  npx sluice rollout show ${finale.rollouts.at(-1)?.id ?? ''} --devices
  npx sluice audit export --out audit.ndjson && npx sluice audit verify audit.ndjson

In a browser: ${finale.url}/docs. Data and logs: ${folder}`);
};

export const addDemo = (program: Command): void => {
  const demo = program
    .command('demo')
    .description(
      'See it work: a server and eight devices on this machine, a good release, and a bad one that stops by itself',
    )
    .option('--keep', 'leave it running afterwards, until Ctrl-C')
    .option('--json', 'print the result as one JSON object in the last line')
    .action(runDemo);
  withExamples(demo, [
    ['Under a minute', 'sluice demo'],
    ['And look around afterwards', 'sluice demo --keep'],
    ['For a test', 'sluice demo --json | tail -n 1 | jq .audit.verified'],
  ]);
};
