/**
 * RAUC and SWUpdate for real, through the agent's whole way: installed, activated, rebooted, on trial, committed; and
 * back.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Published, startTestServer, type TestServer } from '../agent/harness.ts';
import { bootImageDevice } from '../agent/slots/image-device.ts';
import type { Board } from './board.ts';
import { raucBoard } from './rauc-board.ts';
import { swupdateBoard } from './swupdate-board.ts';

const IMAGE_BYTES = 512 * 1024;
const BOARDS = [
  { name: 'RAUC', open: raucBoard },
  { name: 'SWUpdate', open: swupdateBoard },
];
const say = (line: string): void => void process.stdout.write(`  ${line}\n`);

const start = async (open: () => Promise<Board>) => {
  const server = await startTestServer();
  const board = await open();
  const { dir } = board.rig;
  const device = await bootImageDevice(
    server,
    { ...board.rig, open: () => expect.unreachable(), damage: async () => undefined },
    {
      settings: {
        slots: {
          kind: 'delegate',
          ...board.slots,
          bootId: join(dir, 'boot_id'),
          reboot: ['sh', '-c', `echo plainly > '${join(dir, 'reboot-asked')}'; kill -9 $PPID`],
        },
      },
    },
  );
  const imageOf = (version: string, text = 'image'): Buffer => Buffer.alloc(IMAGE_BYTES, `${text} ${version} `);
  const publish = async (version: string, well: boolean, image: Buffer, damage = false): Promise<Published> => {
    const packed = await board.pack(version, image);
    // As if bundles were signed by another person than releases.
    if (damage) packed.writeUInt8(packed.readUInt8(packed.length >> 1) ^ 1, packed.length >> 1);
    return publishPacked(server, board, version, well, packed);
  };
  return { server, board, device, publish, imageOf, slot: (name: string) => readFile(join(dir, `slot-${name}`)) };
};

const publishPacked = (server: TestServer, { handler }: Board, version: string, well: boolean, packed: Buffer) =>
  server.publishRelease(version, '', {
    artifacts: [
      {
        name: 'bundle',
        bytes: packed.length,
        sha256: server.addObject(packed),
        install: { kind: 'delegate', handler },
      },
    ],
    run: undefined,
    health: {
      checks: well ? [] : [{ kind: 'command', command: ['false'] }],
      soakMs: 200,
      deadlineMs: well ? 60_000 : 1_000,
      intervalMs: 50,
    },
  });

describe.each(BOARDS)('$name', ({ name, open }) => {
  test('a good one is committed; one that is not well, one that never comes up and one that is damaged are not', async () => {
    const { device, publish, imageOf, slot } = await start(open);
    const good = imageOf('1.1.0');
    const committed = await device.deploy(await publish('1.1.0', true, good));
    say(`${name}: 1.1.0 ${committed.outcome}; booted ${device.booted.join(' ')}`);
    expect(committed).toMatchObject({ outcome: 'committed', running: { version: '1.1.0', slot: 'b' } });
    expect(device.booted).toEqual(['a', 'b']);
    expect((await slot('b')).subarray(0, IMAGE_BYTES).equals(good)).toBe(true);

    const unwell = await device.deploy(await publish('1.2.0', false, imageOf('1.2.0')));
    say(`${name}: 1.2.0 ${unwell.outcome} (${unwell.error}); booted ${device.booted.join(' ')}`);
    expect(unwell).toMatchObject({ outcome: 'reverted', error: 'SELFTEST_FAILED', running: { version: '1.1.0' } });

    const broken = await device.deploy(await publish('1.3.0', true, imageOf('1.3.0', 'kernel panic')));
    say(`${name}: 1.3.0 ${broken.outcome} (${broken.error}); booted ${device.booted.join(' ')}`);
    expect(broken).toMatchObject({ outcome: 'reverted', error: 'TRIAL_CRASHED', running: { version: '1.1.0' } });
    expect(device.booted.at(-1)).toBe('b');

    const damaged = await device.deploy(await publish('1.4.0', true, imageOf('1.4.0'), true));
    say(`${name}: 1.4.0 ${damaged.outcome} (${damaged.error})`);
    expect(damaged).toMatchObject({ outcome: 'failed', error: 'WRITE_FAILED', running: { version: '1.1.0' } });
  });
});
