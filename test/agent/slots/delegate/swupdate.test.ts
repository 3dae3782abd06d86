/**
 * What SWUpdate leaves in the slot is the release's, or the install has failed; a script stands in for the program,
 * which test/installers runs for real.
 */
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { SlotsConfig } from '#agent/config/slots-config.ts';
import type { Slots } from '#agent/domain/slots.ts';
import { openDelegateSlots } from '#agent/slots/delegate/open-delegate.ts';
import { Id } from '#shared/ids.ts';
import { imagePair } from '../image-pair.ts';
import { grubRig, OWN_ACCESS } from '../selectors/rigs.ts';
import type { Release } from '../slot-pair.ts';

const DELEGATED = { kind: 'delegate', handler: 'swupdate' };

const swupdatePair = async () => {
  const pair = await imagePair(await grubRig(OWN_ACCESS));
  const [program, calls] = [join(pair.dir, 'swupdate'), join(pair.dir, 'calls')];
  const { a, b, selector, running, reboot, rebootMs, bootId } = pair.config;
  const config = SlotsConfig.parse({
    ...DELEGATED,
    installer: 'swupdate',
    command: [program],
    a,
    b,
    selector,
    running,
    reboot,
    rebootMs,
    bootId,
  });
  if (config.kind !== 'delegate') throw new Error('nothing is delegated');
  const open = (): Promise<Slots> =>
    openDelegateSlots({
      config,
      dir: pair.records,
      compatible: Id.parse('gw'),
      log: pino({ level: 'silent' }),
      onInstalled: undefined,
      crashPoint: () => undefined,
    });
  /** The last word of its command line is the file. */
  const doing = (lines: string): Promise<void> =>
    writeFile(program, `#!/bin/sh\nfor file; do :; done\necho "$@" >> ${calls}\n${lines}\n`, { mode: 0o755 });
  const release = (version: string): Promise<Release> =>
    pair.release(version).then(({ manifest, ...rest }) => ({
      ...rest,
      manifest: { ...manifest, artifacts: [{ ...manifest.artifacts[0]!, install: DELEGATED as never }] },
    }));
  return { ...pair, open, doing, release };
};
const write = async (slots: Slots, { manifest, digest, fetched }: Release) => {
  expect(await slots.prepare('b', manifest)).toEqual({ ok: true });
  return slots.write('b', manifest, digest, fetched, new AbortController().signal);
};

test('an install that leaves the slot as it was is a failure, however well it ended', async () => {
  const pair = await swupdatePair();
  const slots = await pair.open();
  const release = await pair.release('1.1.0');
  await pair.doing('exit 0');
  const failure = { ok: false, code: 'WRITE_VERIFY', message: expect.stringContaining('as it was before') };
  expect(await write(slots, release)).toMatchObject(failure);
  expect(await slots.verify('b')).toMatchObject({ ok: false });
  await pair.doing(`cat "$file" > ${pair.config.b}`);
  expect(await write(slots, release)).toEqual({ ok: true });
  expect(await slots.verify('b')).toEqual({ ok: true });
  // Again, as after a restart that lost the record, or as a second attempt: it holds what is wanted already.
  expect(await write(await pair.open(), release)).toEqual({ ok: true });
  // The next release does not get away with that.
  await pair.doing('exit 0');
  expect(await write(slots, await pair.release('1.2.0'))).toMatchObject(failure);
});

test('what is on the partition is looked at again before it is activated', async () => {
  const pair = await swupdatePair();
  const slots = await pair.open();
  await pair.doing(`cat "$file" > ${pair.config.b}`);
  expect(await write(slots, await pair.release('1.1.0'))).toEqual({ ok: true });
  await copyFile(pair.config.a, pair.config.b);
  expect(await slots.verify('b')).toMatchObject({ ok: false, code: 'WRITE_VERIFY' });
  expect((await readFile(pair.config.b)).includes('factory')).toBe(true);
});

test('nothing at all is not handed to an installer', async () => {
  const pair = await swupdatePair();
  const { manifest } = await pair.release('1.1.0');
  const empty = { ...manifest, artifacts: [{ ...manifest.artifacts[0]!, bytes: 0 }] };
  const why = { ok: false, code: 'PRECONDITION', message: expect.stringContaining('no bytes') };
  expect(await (await pair.open()).prepare('b', empty)).toMatchObject(why);
});
