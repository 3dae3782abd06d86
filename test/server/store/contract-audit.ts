import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { leafHash, rootOfHead, rootOfLeaves } from '#shared/trust/merkle.ts';
import type { OpenStore } from './contract.ts';
import { id, line } from './records.ts';
import { storeTest } from './with-store.ts';

export const describeAudit = (open: OpenStore): void => {
  const testStore = storeTest(open);

  describe('audit', () => {
    testStore('lines are numbered from 0 and read back byte for byte, in pages', async (store) => {
      const payloads = ['{"kind":"a","text":"é\\u0000"}', '{"kind":"b"}', '{"kind":"c"}'];
      await store.appendAudit(payloads.map((payload) => ({ payload })));
      expect(await store.readAudit(-1, 2)).toEqual([
        { index: 0, payload: payloads[0] },
        { index: 1, payload: payloads[1] },
      ]);
      expect(await store.readAudit(1, 2)).toEqual([{ index: 2, payload: payloads[2] }]);
      expect(await store.readAudit(2, 2)).toEqual([]);
    });

    testStore('an empty log has an empty head', async (store) => {
      expect(await store.getAuditHead()).toEqual({ size: 0, subtrees: [] });
      await store.appendAudit([]);
      expect(await store.getAuditHead()).toEqual({ size: 0, subtrees: [] });
    });

    test('the head is that of the RFC 6962 tree over the lines, however they were appended', async () => {
      const batches = fc.array(fc.array(fc.string({ maxLength: 8 }), { maxLength: 6 }), { maxLength: 6 });
      await fc.assert(
        fc.asyncProperty(batches, async (texts) => {
          const store = await open();
          try {
            for (const batch of texts) await store.appendAudit(batch.map((text) => line(text)));
            const entries = await store.readAudit(-1, 100);
            const leaves = entries.map(({ payload }) => leafHash(Buffer.from(payload)));
            const head = await store.getAuditHead();
            expect(head.size).toBe(texts.flat().length);
            expect(rootOfHead(head)).toBe(rootOfLeaves(leaves).toString('hex'));
          } finally {
            await store.close();
          }
        }),
        { numRuns: 10 },
      );
    });

    testStore(
      'the lines about a device are found, newest first, whether they name it alone or among others',
      async (store) => {
        await store.appendAudit([
          line('a', { device: 'gw-1' }),
          line('b', { device: 'gw-2' }),
          line('c', { devices: ['gw-2', 'gw-1'] }),
          line('d', { devices: ['gw-1', 'gw-1'], device: 'gw-1' }),
          line('e', { device: null }),
        ]);
        const about = async (name: string, before?: number, limit = 10) =>
          (await store.listDeviceAudit(id(name), { before, limit })).map((entry) => entry.index);
        expect(await about('gw-1')).toEqual([3, 2, 0]);
        expect(await about('gw-1', undefined, 1)).toEqual([3]);
        expect(await about('gw-1', 2)).toEqual([0]);
        expect(await about('gw-2')).toEqual([2, 1]);
        expect(await about('gw-9')).toEqual([]);
        const ofKind = await store.listDeviceAudit(id('gw-1'), { kind: 'c', limit: 10 });
        expect(ofKind.map((entry) => entry.index)).toEqual([2]);
      },
    );

    testStore('a line that is not JSON is refused with everything that was to be saved with it', async (store) => {
      await expect(store.appendAudit([line('good'), { payload: 'not json' }])).rejects.toThrow('store.appendAudit');
      expect(await store.getAuditHead()).toEqual({ size: 0, subtrees: [] });
      expect(await store.readAudit(-1, 10)).toEqual([]);
    });
  });
};
