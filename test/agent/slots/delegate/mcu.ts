/**
 * A microcontroller in a folder, behind the script of docs/examples; a test can put a few lines of shell in front of
 * any verb.
 */
import { access, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import type { CommandConfig } from '#agent/config/delegate-config.ts';
import { SlotsConfig } from '#agent/config/slots-config.ts';
import type { Slots } from '#agent/domain/slots.ts';
import { openCommandSlots } from '#agent/slots/delegate/command.ts';
import type { Verb } from '#agent/slots/delegate/verbs.ts';
import { Id } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import { folder, type Release, sha256 } from '../slot-pair.ts';

const EXAMPLE = join(import.meta.dirname, '../../../../docs/examples/serial-mcu.sh');
/** Says in a file what it was asked, and does first what the test says. */
const SCRIPT = `#!/bin/sh
echo "$@" >> "$MCU.asked"
if [ -e "$MCU.$1" ]; then . "$MCU.$1"; fi
exec ${EXAMPLE} "$@"
`;

export type McuPair = Awaited<ReturnType<typeof mcuPair>>;

/** `asAgent`: what goes into an agent's configuration. */
export const mcu = async () => {
  const dir = await folder();
  const [at, script] = [join(dir, 'mcu'), join(dir, 'installer.sh')];
  await mkdir(at);
  await writeFile(join(at, 'bank-a'), 'as it left the factory');
  await writeFile(script, SCRIPT, { mode: 0o755 });
  return {
    dir,
    asAgent: {
      kind: 'delegate',
      installer: 'command',
      handler: 'mcu',
      command: [script],
      environment: { MCU: at },
      laterFirstMs: 10,
    },
    /** In front of every run of the verb from now on. */
    before: (verb: Verb, lines: string) => writeFile(`${at}.${verb}`, lines),
    /** The verbs that it was asked, with their first word, but for `inspect`. */
    asked: async (): Promise<string[]> => {
      const lines = (await readFile(`${at}.asked`, 'utf8').catch(() => '')).split('\n');
      const words = lines.map((line) => line.split(' ').slice(0, 2).join(' '));
      return words.filter((line) => line !== '' && line !== 'inspect');
    },
    get: (name: string): Promise<string> => readFile(join(at, name), 'utf8').then((text) => text.trim()),
    exists: (name: string): Promise<boolean> =>
      access(`${at}.${name}`).then(
        () => true,
        () => false,
      ),
    put: (name: string, text: string) => writeFile(join(at, name), text),
  };
};

export const mcuPair = async (more: object = {}) => {
  const device = await mcu();
  const config = SlotsConfig.parse({ ...device.asAgent, ...more }) as CommandConfig;
  const records = join(device.dir, 'records');
  await mkdir(records);
  const open = (crashPoint?: (name: string) => void): Promise<Slots> =>
    openCommandSlots({
      config,
      dir: records,
      compatible: Id.parse('gw'),
      log: pino({ level: 'silent' }),
      crashPoint: crashPoint ?? (() => undefined),
    });
  const release = async (version: string, text = '', bytes = 200_000): Promise<Release> => {
    const file = join(device.dir, `firmware-${version}`);
    const firmware = Buffer.alloc(bytes, `firmware ${version} ${text} `);
    await writeFile(file, firmware);
    const install = { kind: 'delegate', handler: 'mcu' };
    const artifacts = [{ name: 'firmware', bytes: firmware.length, sha256: sha256(firmware), install }];
    const manifest = Manifest.parse({
      format: 1,
      product: 'sensor',
      version,
      compatible: 'gw',
      securityCounter: 3,
      artifacts,
    });
    return { manifest, digest: sha256(JSON.stringify(manifest)), fetched: [{ name: 'firmware', file }] };
  };
  return { ...device, config, records, open, release };
};
