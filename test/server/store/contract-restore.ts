import { describe, expect } from 'vitest';
import type { OpenStore } from './contract.ts';
import { enrolFleet, id, offer, planned, rollout, save } from './records.ts';
import { storeTest } from './with-store.ts';

export const describeRestore = (open: OpenStore): void => {
  const test = storeTest(open);

  describe('after a restore', () => {
    test('every instruction goes on above the numbers that devices may have seen, and is signed again', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await store.createRollout(rollout('r1'), [planned('r1', 'gw-1'), planned('r1', 'gw-2', { position: 1 })], []);
      await save(store, 'r1', { offers: [offer('r1', { atMost: 1 })] });
      const before = (await store.getDesired(id('gw-1')))!;
      await store.saveDesiredDocuments([
        { device: id('gw-1'), seq: 1, document: { batch: { payload: '{}' } } as never },
      ]);
      await store.skipDesiredSeqs(1000);
      expect(await store.getDesired(id('gw-1'))).toEqual({ ...before, seq: 1001, document: null });
      expect(await store.getDevice(id('gw-1'))).toMatchObject({ desiredSeq: 1001 });
      // Who had no instruction yet gets its first one above that, too: the lost one may have been its first.
      await save(store, 'r1', { offers: [offer('r1')] });
      expect(await store.getDesired(id('gw-2'))).toMatchObject({ seq: 1001 });
    });
  });
};
