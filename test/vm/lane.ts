/** One server and one device, of which several can be tried at the same time: each tells its own part of the story. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Counts, type DeviceUnderTest, openDevice } from './device.ts';
import { COMPATIBLE, DEVICE, type Fleet, openFleet } from './fleet.ts';
import { makeBootFolder } from './grub.ts';
import { makeDrive, makeSlotImage, makeToolsDrive, PARTITIONS, type SlotImage } from './images.ts';
import { tellStory } from './story.ts';
import { type Kernel, run } from './tools.ts';

const TRIAL_TRIES = 3;

/** What all lanes have in common. */
export type Shared = { kernel: Kernel; base: string; agentFile: string };
export type LaneOptions = {
  work: string;
  seed: number;
  cutsMax: number;
  /** By `performance.now()`. */
  deadlineAt: number;
  /** Which lane of how many. */
  lane: number;
  lanes: number;
  say: (line: string) => void;
  /** Ends everything. */
  signal: AbortSignal;
};
export type LaneEnd = { violation: string | undefined; counts: Counts | undefined };

const agentConfig = ({ httpPort, mqttPort, enrolmentToken }: Fleet) => ({
  device: DEVICE,
  compatible: COMPATIBLE,
  // The emulator's name for the machine that it runs on.
  serverUrl: `http://10.0.2.2:${httpPort}`,
  mqttUrl: `mqtt://10.0.2.2:${mqttPort}`,
  token: enrolmentToken,
  dataDir: '/data/agent',
  heartbeatMs: 5_000,
  pollMs: 5_000,
  reconnect: { firstMs: 200, maxMs: 2_000 },
  trialTries: TRIAL_TRIES,
  slots: {
    kind: 'image',
    a: '/dev/vda2',
    b: '/dev/vda3',
    selector: { kind: 'grub', environment: '/boot/grub/grubenv' },
    running: { by: 'command-line' },
    // Without a sync: what the agent has not made durable itself is lost.
    reboot: ['/bin/reboot', '-f'],
    rebootMs: 60_000,
  },
  log: { level: 'info', pretty: false },
});

/** The partition as the last cut left it: its journal is played back, and then nothing may be wrong. */
const damageOf = async (work: string, media: Buffer, name: 'boot' | 'data'): Promise<string | undefined> => {
  const { at, bytes } = PARTITIONS[name];
  const file = join(work, `${name}.check`);
  await writeFile(file, media.subarray(at, at + bytes));
  // 1: the journal was played back, or free counts corrected. 4 and more: damage.
  return run('sh', ['-c', 'unset E2FSPROGS_FAKE_TIME; e2fsck -fp "$0" || [ $? -eq 1 ]', file]).then(
    () => undefined,
    (error: unknown) => `the ${name} partition is damaged: ${String(error)}`,
  );
};

export const runLane = async (shared: Shared, options: LaneOptions): Promise<LaneEnd> => {
  const { work, say, seed } = options;
  await mkdir(join(work, 'data'), { recursive: true });
  const make = (version: string, fault: SlotImage['fault']) => makeSlotImage({ ...shared, work }, { version, fault });
  const factory = await make('1.0.0', 'none');
  const fleet = await openFleet(work);
  let device: DeviceUnderTest | undefined;
  try {
    const toolsFile = await makeToolsDrive(work, shared.agentFile, agentConfig(fleet));
    const media = await makeDrive(work, { boot: await makeBootFolder(work), data: join(work, 'data'), factory });
    device = await openDevice({ work, media, toolsFile, seed, cutsMax: options.cutsMax, tell: say });
    device.witness.published(factory);
    const stopped = new Promise<never>((_, reject) => {
      options.signal.addEventListener('abort', () => reject(new Error('stopped')), { once: true });
    });
    const story = tellStory({ ...options, device, fleet, make, factory, triesMax: TRIAL_TRIES });
    await Promise.race([story, fleet.failure, stopped]);
    await device.stop();
    const violation =
      device.witness.violation() ?? (await damageOf(work, media, 'data')) ?? (await damageOf(work, media, 'boot'));
    if (violation !== undefined) {
      await writeFile(join(work, 'drive.img'), media);
      for (const line of device.witness.history()) say(`    ${line}`);
    }
    return { violation, counts: device.counts };
  } catch (error) {
    return { violation: error instanceof Error ? error.stack : String(error), counts: device?.counts };
  } finally {
    await device?.stop();
    await fleet.stop();
  }
};
