/** What someone who runs this should know, at every start. */
import type { Logger } from 'pino';
import { isLoopback } from './addresses.ts';
import type { ServerConfig } from './config.ts';
import { inDataFolder } from './data-folder.ts';
import type { Keyring } from './trust/keyring.ts';

export const announce = (
  log: Logger,
  { dataDir, http, mqtt, tls }: Pick<ServerConfig, 'dataDir' | 'http' | 'mqtt' | 'tls'>,
  keyring: Keyring,
  { httpUrl, mqttUrl }: { httpUrl: string; mqttUrl: string },
): void => {
  log.info({ event: 'server-started', httpUrl, mqttUrl, dataDir }, `listening: ${httpUrl}, ${mqttUrl}`);
  if (keyring.root !== null || keyring.targets !== null) {
    const folder = inDataFolder(dataDir).keys;
    log.warn(
      { event: 'keys-online', folder },
      `ALL keys, root and targets too, lie in ${folder}: anyone who gets that folder can sign for this fleet (docs/operations.md)`,
    );
  }
  const open = [http.host, mqtt.host].filter((host) => !isLoopback(host));
  if (open.length > 0 && tls === undefined) {
    log.warn(
      { event: 'no-tls', hosts: open },
      'listening beyond this machine without TLS: tokens and firmware cross the network in clear (docs/operations.md)',
    );
  }
};
