import { startGateway } from './gateway.mjs';

// The sensor's place differs from board to board and comes with the bundle. The mistake is in the bundle of gw-x86: it
// names a bus that those boards do not have.
startGateway({ version: '1.5.0', loadFile: process.env.SENSOR_FILE });
