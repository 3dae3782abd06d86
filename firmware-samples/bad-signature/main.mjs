import { startGateway } from './gateway.mjs';

// Nothing is wrong with this version. It is who signs it that no one has delegated.
startGateway({ version: '1.6.0' });
