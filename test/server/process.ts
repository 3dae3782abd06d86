/** A real `sluice serve` in a process of its own, and its first administrator. */
import { join } from 'node:path';
import { z } from 'zod';
import { openClient } from '#cli/client.ts';
import { openProcesses } from '#cli/demo/processes.ts';

const Ready = z.object({ httpUrl: z.string(), mqttUrl: z.string(), adminToken: z.string() });

/** Its data is in `server/` of the folder. `processes` is to be stopped by the caller. */
export const startServerProcess = async (work: string) => {
  const processes = openProcesses(work);
  const settings = {
    'data-dir': join(work, 'server'),
    'http-port': '0',
    'mqtt-port': '0',
    'log-pretty': 'false',
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]);
  const { ready, log } = await processes.start('server', ['serve', ...flags]);
  const { httpUrl, mqttUrl, adminToken } = Ready.parse(await Promise.race([ready, processes.failure]));
  return { processes, log, httpUrl, mqttUrl, client: openClient({ url: httpUrl, token: adminToken }) };
};
