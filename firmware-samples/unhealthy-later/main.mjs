import { startGateway } from './gateway.mjs';

const QUEUE_MAX = Number(process.env.QUEUE_SECONDS ?? 4) * 10;

// The mistake: readings are queued for a cloud that is never asked whether it took them, so the queue only grows.
const queue = [];
setInterval(() => queue.push({ at: Date.now() }), 100);

startGateway({
  version: '1.4.0',
  complaint: () => (queue.length > QUEUE_MAX ? `the queue is full: ${queue.length} readings wait` : undefined),
});
