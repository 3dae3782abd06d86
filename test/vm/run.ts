/**
 * `npm run test:vm`: a virtual machine with GRUB, two slots and a data partition is updated by the agent, release after release, through real rollouts of a
 * real server, while its power is cut: in every state, at single writes, and at random. It must always boot a release that was published, report, and
 * come to the right outcome; what can not boot must be left again by the boot counter. Exit code 0 is good, 1 bad, 77 "can not be run here".
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { CUT_STATES } from './cuts.ts';
import { type DeviceUnderTest, openDevice } from './device.ts';
import { COMPATIBLE, DEVICE, openFleet } from './fleet.ts';
import { makeBootFolder } from './grub.ts';
import { makeBase, makeDrive, makeSlotImage, makeToolsDrive, PARTITIONS, type SlotImage } from './images.ts';
import { tellStory } from './story.ts';
import { fetchKernel, missingPackages, run } from './tools.ts';

const CANNOT_RUN = 77;
export const TRIAL_TRIES = 3;

const { values } = parseArgs({
  options: {
    cuts: { type: 'string', default: '100' },
    seed: { type: 'string' },
    minutes: { type: 'string', default: '120' },
    keep: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
const cutsMax = Number(values.cuts);
const beganAt = performance.now();
const say = (line: string): void => {
  const seconds = Math.round((performance.now() - beganAt) / 1000);
  console.log(`${String(Math.floor(seconds / 60)).padStart(3)}:${String(seconds % 60).padStart(2, '0')}  ${line}`);
};

const agentConfig = (fleet: { httpPort: string; mqttPort: string; enrolmentToken: string }) => ({
  device: DEVICE,
  compatible: COMPATIBLE,
  // The emulator's name for the machine that it runs on.
  serverUrl: `http://10.0.2.2:${fleet.httpPort}`,
  mqttUrl: `mqtt://10.0.2.2:${fleet.mqttPort}`,
  token: fleet.enrolmentToken,
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

const buildAgent = async (file: string): Promise<void> => {
  const root = join(import.meta.dirname, '..', '..');
  const environment = { ...process.env, SLUICE_AGENT_FILE: file };
  await promisify(execFile)('npx', ['rolldown', '-c'], { cwd: root, env: environment });
};

/** The partition as the last cut left it: its journal is played back, and then nothing may be wrong. */
const checkFileSystem = async (work: string, media: Buffer, name: 'boot' | 'data'): Promise<string | undefined> => {
  const { at, bytes } = PARTITIONS[name];
  const file = join(work, `${name}.check`);
  await writeFile(file, media.subarray(at, at + bytes));
  // 1: the journal was played back, or free counts corrected. 4 and more: damage.
  return run('sh', ['-c', 'e2fsck -fp "$0" || [ $? -eq 1 ]', file]).then(
    () => undefined,
    (error: unknown) => `the ${name} partition is damaged: ${String(error)}`,
  );
};

const summarize = ({ counts }: DeviceUnderTest): void => {
  say(
    `${counts.cuts} cuts (seed ${seed}), ${counts.watchdog} resets by the watchdog, ${counts.boots} boots into published slots, ${counts.reports} of them reported`,
  );
  say(
    `${counts.sectorsUnflushed} sectors were in the drive's cache when power went, ${counts.sectorsLost} of them were lost`,
  );
  const known = ['power-on', ...CUT_STATES];
  say(`cut in: ${known.map((state) => `${state} ${counts.cutIn.get(state) ?? 0}`).join(', ')}`);
};

const test = async (work: string): Promise<string | undefined> => {
  const kernel = await fetchKernel();
  if (kernel === undefined) {
    say('skipped: the kernel linux-image-cloud-amd64 can not be had from the distribution');
    process.exitCode = CANNOT_RUN;
    return undefined;
  }
  const base = await makeBase(kernel, work);
  const make = (version: string, fault: SlotImage['fault']) =>
    makeSlotImage({ kernel, base, work }, { version, fault });
  const factory = await make('1.0.0', 'none');
  const agentFile = join(work, 'agent.mjs');
  await buildAgent(agentFile);
  const fleet = await openFleet(work);
  let device: DeviceUnderTest | undefined;
  try {
    const toolsFile = await makeToolsDrive(work, agentFile, agentConfig(fleet));
    const boot = await makeBootFolder(work);
    await mkdir(join(work, 'data'));
    const media = await makeDrive(work, { boot, data: join(work, 'data'), factory });
    say(`seed ${seed}, ${cutsMax} cuts; console and drive in ${work}`);
    device = await openDevice({ work, media, toolsFile, seed, cutsMax, tell: say });
    device.witness.published(factory);
    const deadlineAt = beganAt + Number(values.minutes) * 60_000;
    const story = tellStory({ device, fleet, make, say, cutsMax, deadlineAt, factory, triesMax: TRIAL_TRIES });
    await Promise.race([story, fleet.failure]);
    await device.stop();
    const damage = [await checkFileSystem(work, media, 'data'), await checkFileSystem(work, media, 'boot')];
    const violation = device.witness.violation() ?? damage.find((found) => found !== undefined);
    if (violation !== undefined) await writeFile(join(work, 'drive.img'), media);
    if (violation !== undefined) for (const line of device.witness.history()) console.log(`    ${line}`);
    return violation;
  } finally {
    await device?.stop();
    await fleet.stop();
    if (device !== undefined) summarize(device);
  }
};

const main = async (): Promise<void> => {
  if (values.help) {
    console.log(await readFile(join(import.meta.dirname, 'usage.txt'), 'utf8'));
    return;
  }
  const missing = await missingPackages();
  if (missing.length > 0) {
    say(`skipped: it needs ${missing.join(', ')}`);
    process.exitCode = CANNOT_RUN;
    return;
  }
  const work = await mkdtemp(join(tmpdir(), 'sluice-vm-'));
  let violation: string | undefined = 'it did not come to an end';
  try {
    violation = await test(work);
  } catch (error) {
    violation = error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  if (violation !== undefined) {
    say(`FAILED, seed ${seed}: ${violation}`);
    say(`the console's output and the drive are kept in ${work}`);
    process.exitCode = 1;
  } else {
    if (process.exitCode === undefined)
      say('good: always a published slot, every rollout ended as it should, every receipt verified');
    if (!values.keep) await rm(work, { recursive: true, force: true });
  }
  await pause(0);
};

await main();
