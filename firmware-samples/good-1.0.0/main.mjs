import { startGateway } from './gateway.mjs';

startGateway({ version: '1.0.0' });
