/**
 * A device that boots images, with real agent processes: its "reboot" ends the agent and says how, and a boot loader as
 * small as it gets then reads the real boot selector with the real tools, writes what the kernel would show, and starts
 * the agent again, if the image is one that comes up.
 */
import { randomUUID } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { SlotName } from '#agent/domain/slots.ts';
import { openDevice, type Published, type RunningAgent, type TestServer, until } from '../harness.ts';
import type { Rig } from './selectors/rigs.ts';

const SLOT_BYTES = 1024 * 1024;
/** An image with this in it never gets as far as its agent. */
const BROKEN = 'kernel panic';

export const publishImage = async (
  server: TestServer,
  version: string,
  kind: 'good' | 'unhealthy' | 'broken',
): Promise<Published> => {
  const image = Buffer.alloc(SLOT_BYTES - 4096, `${kind === 'broken' ? BROKEN : 'image'} ${version} `);
  const sha256 = server.addObject(image);
  return server.publishRelease(version, '', {
    artifacts: [{ name: 'rootfs', bytes: image.length, sha256, install: { kind: 'image' } }],
    run: undefined,
    health: {
      checks: kind === 'unhealthy' ? [{ kind: 'command', command: ['false'] }] : [],
      soakMs: 200,
      // Of what is not well: long enough for a check to have failed when it is over.
      deadlineMs: kind === 'unhealthy' ? 6_000 : 120_000,
      intervalMs: 50,
    },
  });
};

type Site = {
  url: string;
  token: string;
  /** Whether it has noticed that the last agent is gone. */
  nobodyIsConnected?: () => boolean;
};

/** The device is switched on, and lives on as often as it reboots. */
export const startImageDevice = async (
  site: Site,
  rig: Rig,
  {
    slotBytes = SLOT_BYTES,
    settings = {},
    under,
  }: {
    slotBytes?: number;
    settings?: Record<string, unknown>;
    /** The command that each of its agents runs under. */
    under?: string[];
  } = {},
) => {
  const at = (name: string): string => join(rig.dir, name);
  const files = { a: at('slot-a'), b: at('slot-b') };
  const asked = at('reboot-asked');
  await writeFile(files.a, Buffer.alloc(slotBytes, 'as it left the factory '));
  await writeFile(files.b, Buffer.alloc(slotBytes));
  /** `$PPID` is the agent. */
  const rebootAs = (how: string): string[] => ['sh', '-c', `echo ${how} > '${asked}'; kill -9 $PPID`];
  const own = rig.settings['kind'] === 'raspberry-pi' ? { tryboot: rebootAs('armed') } : {};
  const device = await openDevice(site, {
    trialTries: 2,
    slots: {
      kind: 'image',
      ...files,
      selector: { ...rig.settings, ...own },
      running: { by: 'command-line', file: at('cmdline') },
      bootId: at('boot_id'),
      reboot: rebootAs('plainly'),
    },
    ...settings,
  });
  const booted: SlotName[] = [];
  const agents: RunningAgent[] = [];
  const state = { stopped: false, dead: false };

  /** Undefined when the test is over. */
  const powerOn = async (how: string): Promise<RunningAgent | undefined> => {
    for (let armed = how.startsWith('armed'); ; armed = false) {
      if (state.stopped) return undefined;
      const slot = await rig.powerOn(armed);
      booted.push(slot);
      await writeFile(at('boot_id'), randomUUID());
      await writeFile(at('cmdline'), `root=PARTUUID=1-0${slot === 'a' ? 2 : 3} sluice.slot=${slot}`);
      // The watchdog resets what does not come up.
      if ((await readFile(files[slot])).includes(BROKEN)) continue;
      if (site.nobodyIsConnected !== undefined) await until('the broker has noticed', site.nobodyIsConnected);
      if (state.stopped) return undefined;
      const agent = device.start(undefined, {}, under);
      agents.push(agent);
      return agent;
    }
  };
  const life = (async () => {
    for (let how = 'plainly'; ; ) {
      const agent = await powerOn(how);
      if (agent === undefined) return;
      await agent.ended;
      how = await readFile(asked, 'utf8').catch(() => '');
      state.dead = how === '';
      if (state.dead) return;
      await rm(asked);
    }
  })();
  life.catch(() => undefined);
  onTestFinished(async () => {
    state.stopped = true;
    agents.at(-1)?.kill();
    await life.catch(() => undefined);
  });
  return {
    dataDir: device.dataDir,
    files,
    booted,
    lines: () => agents.flatMap(({ lines }) => lines),
    /** Throws when the agent has ended although nothing was rebooted. */
    expectAlive: () => {
      if (state.dead) throw new Error(`the agent has ended: ${agents.at(-1)?.errorOutput()}`);
    },
  };
};

export const bootImageDevice = async (
  server: TestServer,
  rig: Rig,
  more: Parameters<typeof startImageDevice>[2] = {},
) => {
  const device = await startImageDevice(server, rig, more);
  /** The outcome that the server has a signed receipt of, and what runs by the device's next word. */
  const deploy = async (release: Published) => {
    server.desire(release.instruction);
    const receipts = () => server.state.receipts.filter((one) => one.deployment === release.instruction.deployment);
    const isOver = () => {
      device.expectAlive();
      return receipts().length > 0 && server.state.reports.at(-1)?.deployment === null;
    };
    const facts = () => ({ booted: device.booted, said: device.lines().slice(-15) });
    await until(`${release.version} is over`, isOver, 120_000, facts);
    const [receipt, ...more] = receipts();
    if (more.length > 0) throw new Error('reported twice');
    return { outcome: receipt!.outcome, error: receipt!.error?.code, running: server.state.reports.at(-1)!.running };
  };
  return { ...device, deploy };
};
