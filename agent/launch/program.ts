/**
 * The agent as a program of its own. Exit code 1 is a refusal, 2 a wrong command line; SIGTERM and SIGINT stop it
 * gracefully.
 */
import { commandOf, ownAgentFile } from '../application/agent-file.ts';
import { BECOME, becomeUser } from '../application/become.ts';
import type { AgentConfig } from '../config/config.ts';
import { runAgentCommand } from '../local/agent-commands.ts';
import { AgentStopped } from '../process/agent-stopped.ts';
import { readCommandLine } from './command-line.ts';
import { chooseAgent, launchEnvironment } from './launch.ts';

const LAST_MS_MAX = 5_000;

export const runProgram = async (run: (config: AgentConfig, signal: AbortSignal) => Promise<void>): Promise<void> => {
  if (process.argv[2] === BECOME) return becomeUser(process.argv.slice(3));
  const read = readCommandLine(process.argv.slice(2), process.env);
  if (!read.ok) {
    process.stderr.write(`sluice agent: ${read.detail}\n`);
    process.exitCode = 2;
    return;
  }
  if ('print' in read.value) {
    process.stdout.write(read.value.print);
    return;
  }
  const { config, command, launch, ...how } = read.value;
  try {
    if (launch) await becomeChosen(config);
    if (command === undefined) {
      await run(config, stopSignal());
      return endAtLast();
    }
    const answer = await runAgentCommand(command, config, how);
    process.stdout.write(answer.text);
    process.exitCode = answer.exitCode;
  } catch (error) {
    const said = error instanceof AgentStopped ? error.message : error instanceof Error ? error.stack : String(error);
    process.stderr.write(`sluice agent: ${said}\n`);
    process.exitCode = 1;
  }
};

/** Becomes the agent that the slots choose, keeping this process's number; returns when that is this one. */
const becomeChosen = async (config: AgentConfig): Promise<void> => {
  const builtIn = ownAgentFile();
  const choice = await chooseAgent(config.dataDir, builtIn);
  const { file } = choice;
  Object.assign(process.env, launchEnvironment(builtIn, choice));
  if (file === builtIn) return;
  const words = process.argv.slice(2).filter((word) => word !== '--launch');
  const started = await commandOf(file);
  // It could be a moment ago. This agent runs the application at least.
  if (!started.ok) return void process.stderr.write(`sluice agent: ${file} cannot be started: ${started.why}\n`);
  process.execve?.(started.command[0]!, [...started.command, ...words], process.env);
};

/** All is done. A call that hangs in the kernel would keep this process until the service manager loses patience. */
const endAtLast = (): void => void setTimeout(() => process.kill(process.pid, 'SIGKILL'), LAST_MS_MAX).unref();

const stopSignal = (): AbortSignal => {
  const stopping = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => stopping.abort());
  return stopping.signal;
};
