import { existsSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { startGateway } from './gateway.mjs';

// The mistake: it waits for the modem before it serves anything, and a gateway without a modem waits forever.
while (!existsSync('/dev/ttyMODEM0')) await pause(200);

startGateway({ version: '1.3.0' });
