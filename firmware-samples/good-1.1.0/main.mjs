import { startGateway } from './gateway.mjs';

// New in this version: readings are averages over five seconds.
startGateway({ version: '1.1.0', smoothing: 10 });
