/** Stops serving HTTP without cutting anyone off, and without waiting for those who have nothing to say. */
import type { FastifyInstance } from 'fastify';

const LOOK_MS = 50;

/**
 * Requests that run are answered. A connection whose answer was just sent becomes idle only a moment after the server
 * has closed its idle ones, and would then be waited for until its keep-alive ends: so they are closed again and again.
 */
export const closeApp = async (app: FastifyInstance): Promise<void> => {
  const again = setInterval(() => app.server.closeIdleConnections(), LOOK_MS);
  try {
    await app.close();
  } finally {
    clearInterval(again);
  }
};
