#!/usr/bin/env node
/** The entry: runs the command line, and turns however it ends into words and an exit code. */
import { CommanderError } from 'commander';
import { withoutLongWords } from '#shared/problems.ts';
import { CliFailure, EXIT } from './failure.ts';
import { buildProgram } from './program.ts';
import { harmless, paint, printError } from './terminal.ts';

const HANG_MS = 5_000;

const exitCodeOf = (error: unknown): number => {
  const debug = (process.env['SLUICE_DEBUG'] ?? '') !== '';
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage; // It has printed already.
  if (error instanceof CliFailure) {
    printError(`${paint.red('error')}: ${withoutLongWords(error.message).split('\n').map(harmless).join('\n')}`);
    if (debug) printError(String(error.stack));
    if (debug && error.cause instanceof Error) printError(`caused by ${error.cause.stack}`);
    return error.exitCode;
  }
  const message = error instanceof Error ? error.message : String(error);
  printError(`${paint.red('error')}: ${harmless(withoutLongWords(message))}`);
  printError(debug && error instanceof Error ? String(error.stack) : 'SLUICE_DEBUG=1 shows where this happened.');
  return EXIT.failed;
};

// A reader that closes early (`sluice audit export | head`) is no fault of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? EXIT.ok : EXIT.failed);
});

try {
  await buildProgram().parseAsync(process.argv);
} catch (error) {
  process.exitCode = exitCodeOf(error);
  // Whatever a failed command left open must not keep its process alive.
  setTimeout(() => process.exit(), HANG_MS).unref();
}
