import { describe, expect } from 'vitest';
import type { DeviceLogRecord } from '#server/store/ingest.ts';
import type { Store } from '#server/store/store.ts';
import type { OpenStore } from './contract.ts';
import { enrolFleet, id, T0 } from './records.ts';
import { storeTest } from './with-store.ts';

const piece = (device: string, name: string, more: Partial<DeviceLogRecord> = {}): DeviceLogRecord => ({
  device: id(device),
  id: id(name),
  boot: id('boot-1'),
  deployment: id('dep-1'),
  source: 'application',
  part: 1,
  parts: 1,
  at: T0,
  receivedAt: T0 + 1,
  text: 'out of luck\u001b[2J\u0000\n',
  ...more,
});
const MANY = 1024 ** 2;

export const describeDeviceLogs = (open: OpenStore): void => {
  const test = storeTest(open);
  const list = async (store: Store, device = 'gw-1', filter = {}, page: object = {}) =>
    (await store.listDeviceLogs(id(device), filter, { limit: 100, ...page })).map((log) => log.id);

  describe('logs of devices', () => {
    test('they come back as they were, newest first, of one device or one of its deployments', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      const of2 = { deployment: id('dep-2') };
      const all = [piece('gw-1', 'one'), piece('gw-2', 'other'), piece('gw-1', 'two', of2)];
      await store.saveDeviceLogs([...all, piece('gw-1', 'three', { deployment: null })], MANY);
      expect(await list(store)).toEqual(['three', 'two', 'one']);
      expect(await list(store, 'gw-1', of2)).toEqual(['two']);
      const [newest, second] = await store.listDeviceLogs(id('gw-1'), {}, { limit: 2 });
      expect(second).toEqual({ ...all[2]!, n: second!.n });
      expect(await list(store, 'gw-1', {}, { before: newest!.n, limit: 1 })).toEqual(['two']);
    });

    test('a piece that comes again changes nothing; another device may use the same id', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await store.saveDeviceLogs([piece('gw-1', 'one')], MANY);
      await store.saveDeviceLogs([piece('gw-1', 'one', { text: 'other' }), piece('gw-2', 'one')], MANY);
      expect(await store.listDeviceLogs(id('gw-1'), {}, { limit: 9 })).toMatchObject([
        { text: piece('gw-1', 'one').text },
      ]);
      expect(await list(store, 'gw-2')).toEqual(['one']);
    });

    test('a device that no one knows leaves nothing', async (store) => {
      await store.saveDeviceLogs([piece('nobody', 'one')], MANY);
      expect(await list(store, 'nobody')).toEqual([]);
    });

    test('of each device the newest are kept', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await store.saveDeviceLogs([piece('gw-2', 'kept')], 3_000);
      for (const name of ['one', 'two', 'three', 'four'])
        await store.saveDeviceLogs([piece('gw-1', name, { text: 'x'.repeat(1_000) })], 3_000);
      expect(await list(store)).toEqual(['four', 'three']);
      expect(await list(store, 'gw-2')).toEqual(['kept']);
    });

    test('what is too old goes, and of all the oldest', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      const at = (receivedAt: number) => ({ receivedAt, text: 'x'.repeat(1_000) });
      await store.saveDeviceLogs([piece('gw-1', 'old', at(T0)), piece('gw-2', 'a', at(T0 + 5))], MANY);
      await store.saveDeviceLogs([piece('gw-1', 'b', at(T0 + 6)), piece('gw-2', 'c', at(T0 + 7))], MANY);
      expect(await store.trimDeviceLogs(T0 + 1, MANY)).toBe(1);
      expect(await store.trimDeviceLogs(T0 + 1, 3_000)).toBe(1);
      expect([await list(store), await list(store, 'gw-2')]).toEqual([['b'], ['c']]);
    });
  });
};
