/** All of `sluice`: one file per group of commands. */
import { Command } from 'commander';
import { withoutLongWords } from '#shared/problems.ts';
import { readVersion } from '#shared/version.ts';
import { addAgent } from './commands/agent.ts';
import { addAudit } from './commands/audit.ts';
import { addBackup } from './commands/backup.ts';
import { addBundle } from './commands/bundle.ts';
import { addChange } from './commands/change.ts';
import { addCohort } from './commands/cohort.ts';
import { addDemo } from './commands/demo.ts';
import { addDevice } from './commands/device.ts';
import { addKey } from './commands/key.ts';
import { addLogin } from './commands/login.ts';
import { addOperator } from './commands/operator.ts';
import { addProduct } from './commands/product.ts';
import { addRelease } from './commands/release.ts';
import { addRollout } from './commands/rollout.ts';
import { addServe } from './commands/serve.ts';
import { addSimulate } from './commands/simulate.ts';

const AFTER = `
Exit codes: 0 done; 1 refused or failed; 2 wrong command line; 3 server not reached, or not known to it;
            rollout watch also: 4 halted, 5 aborted.
Environment: SLUICE_URL, SLUICE_TOKEN, SLUICE_SIGNING_KEY, NO_COLOR; SLUICE_DEBUG=1 shows stack traces.

Examples:
  # See the main job done, in under a minute
  $ sluice demo
  # Start a server; the first start says what to do next
  $ sluice serve
  # Roll a staged release out, two devices first, and watch it
  $ sluice rollout create gateway@1.1.0 --cohort canary --cohort everyone=2,50%,100% --watch
`;

/** The whole command line; nothing runs until it is given arguments. Errors are thrown, never exits. */
export const buildProgram = (): Command => {
  const program = new Command('sluice')
    .description('Updates fleets of devices over the air, wave by wave, and stops by itself when an update is bad')
    .version(readVersion())
    .enablePositionalOptions()
    .showHelpAfterError('(add --help for what there is)')
    .configureOutput({ outputError: (text, write) => write(withoutLongWords(text)) })
    .configureHelp({ showGlobalOptions: false, sortSubcommands: false })
    .exitOverride()
    .addHelpText('after', AFTER);
  for (const add of [addServe, addBackup, addAgent, addDemo, addLogin, addKey, addProduct, addBundle, addRelease])
    add(program);
  for (const add of [addChange, addDevice, addCohort, addRollout, addAudit, addOperator, addSimulate]) add(program);
  return program;
};
