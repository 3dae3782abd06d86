import { readFileSync } from 'node:fs';
import { startGateway } from './gateway.mjs';

// The mistake: it works on the developer's machine, where this file lies about; it never made it into the bundle.
const calibration = JSON.parse(readFileSync(new URL('calibration.json', import.meta.url), 'utf8'));

startGateway({ version: '1.2.0', smoothing: calibration.readings });
