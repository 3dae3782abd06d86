/** Whether the A/B pair and its boot selector can be relied on. Writes nothing into them. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { unreachable } from '#shared/ids.ts';
import type { AgentConfig } from '../config/config.ts';
import type { ImageConfig } from '../config/slots-config.ts';
import { other } from '../domain/slots.ts';
import { openBootSelector } from '../slots/boot-selector.ts';
import { openDelegateSlots } from '../slots/delegate/open-delegate.ts';
import { checkDevice, findDevice } from '../slots/image-device.ts';
import { findRunningSlot } from '../slots/running-slot.ts';
import { openSelector } from '../slots/selectors/open-selector.ts';
import { doubtful, type Finding, good, sizeOf, unfit } from './finding.ts';

export const examineSlots = async (config: AgentConfig): Promise<Finding[]> => {
  const dir = join(config.dataDir, 'slots');
  switch (config.slots.kind) {
    case 'directories':
      return [await examineDirectories(dir)];
    case 'image':
      return examineImages(config.slots, dir);
    case 'delegate':
      return [await examineDelegate(config)];
    default:
      return unreachable(config.slots);
  }
};

const examineDirectories = async (dir: string): Promise<Finding> => {
  const there = await readdir(dir).catch(() => []);
  if (there.length === 0) return good('slots', 'two folders will be made');
  const { state } = await openBootSelector(dir).read();
  return state === 'read'
    ? good('slots', `two folders in ${dir}, and their boot selector can be read`)
    : unfit(
        'slots',
        `the boot selector in ${dir} is ${state}`,
        `restore ${dir} from a backup, or remove it: the server says again what to run`,
      );
};

/** What it says of itself, asked as it will be asked to install. */
const examineDelegate = async (config: AgentConfig): Promise<Finding> => {
  const log = pino({ level: 'silent' });
  const dir = await mkdtemp(join(tmpdir(), 'sluice-check-'));
  try {
    if (config.slots.kind !== 'delegate') return good('slots', 'not an installer');
    const { handler, installer } = config.slots;
    const slots = await openDelegateSlots({
      config: { ...config.slots, laterMs: 0 },
      dir,
      compatible: config.compatible,
      log,
    });
    const inspected = await slots.inspect();
    return inspected.ok
      ? good(
          'installer',
          `${handler} answers${installer === 'command' ? '' : `: slot ${inspected.view.active} is active`}`,
        )
      : unfit('installer', inspected.message, 'docs/delegate.md says what is expected of it');
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
};

const examineImages = async (config: ImageConfig, dir: string): Promise<Finding[]> => {
  const selector = openSelector(config.selector, dir);
  const problems = await selector.check().catch((error: unknown) => [{ grave: true, sentence: String(error) }]);
  const todo = 'docs/boot-selectors.md says what is expected of this boot loader';
  const findings = problems.map(({ grave, sentence }) => (grave ? unfit : doubtful)('boot selector', sentence, todo));
  if (findings.length === 0) findings.push(good('boot selector', `${config.selector.kind} can be read and written`));
  const running = await findRunningSlot(config);
  findings.push(
    running === null
      ? unfit(
          'running slot',
          'nothing shows which slot runs',
          `let slots.running say how: ${config.running.by} shows none`,
        )
      : good('running slot', `${running}, as the system shows`),
  );
  for (const slot of ['a', 'b'] as const) {
    // What runs is mounted; the other must be free to be written.
    const isStandby = running !== null && slot === other(running);
    const found = await (isStandby ? checkDevice(config[slot]) : findDevice(config[slot]));
    findings.push(
      found.ok
        ? good(`slot ${slot}`, `${config[slot]}, ${sizeOf(found.device.bytes)}`)
        : unfit(`slot ${slot}`, found.message, `slots.${slot} must be a partition or file that no one else uses`),
    );
  }
  const sizes = await Promise.all([findDevice(config.a), findDevice(config.b)]);
  const [a, b] = sizes.map((found) => (found.ok ? found.device.bytes : undefined));
  if (a !== undefined && b !== undefined && a !== b)
    findings.push(
      doubtful('slots', `slot a has ${sizeOf(a)}, slot b ${sizeOf(b)}`, 'an image must fit into the smaller one'),
    );
  return findings;
};
