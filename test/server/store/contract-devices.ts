import { describe, expect } from 'vitest';
import type { OpenStore } from './contract.ts';
import { device, digest, enrolFleet, id, kindsOf, line, report, running, T0 } from './records.ts';
import { storeTest } from './with-store.ts';

const token = (seed: number, more: object = {}) => ({
  tokenSha256: digest(seed),
  expiresAt: T0 + 1000,
  device: null,
  tags: { site: 'lyon' },
  usedBy: null,
  ...more,
});

export const describeDevices = (open: OpenStore): void => {
  const test = storeTest(open);

  describe('enrolment', () => {
    test('a device without a token waits as pending until an operator lets it in', async (store) => {
      const enrolled = await store.enrolDevice(device('gw-1', { attributes: { os: 'linux' } }), null, T0, line('came'));
      const fresh = {
        id: 'gw-1',
        publicKey: digest(7),
        state: 'pending',
        compatible: 'gw2',
        tags: {},
        attributes: { os: 'linux' },
        agent: null,
        running: null,
        floor: 0,
        boot: null,
        online: false,
        healthy: null,
        enrolledAt: T0,
        lastSeenAt: null,
        desiredSeq: 0,
        reportSeq: 0,
        deployment: null,
      };
      expect(enrolled).toEqual({ result: 'enrolled', device: fresh });
      expect(await store.setDeviceState(id('gw-1'), 'accepted', T0, line('let-in'))).toEqual({
        ...fresh,
        state: 'accepted',
      });
      expect(await store.setDeviceState(id('gw-9'), 'accepted', T0, line('lost'))).toBeUndefined();
      expect(await kindsOf(store)).toEqual(['came', 'let-in']);
    });

    test('a token lets one device in, with its tags, and no second one', async (store) => {
      await store.createEnrolmentTokens([token(1)], line('tokens'));
      const first = await store.enrolDevice(device('gw-1'), digest(1), T0, line('came'));
      expect(first).toMatchObject({ result: 'enrolled', device: { state: 'accepted', tags: { site: 'lyon' } } });
      expect(await store.enrolDevice(device('gw-2'), digest(1), T0, line('lost'))).toEqual({ result: 'token-invalid' });
      expect(await store.getDevice(id('gw-2'))).toBeUndefined();
      expect(await kindsOf(store)).toEqual(['tokens', 'came']);
    });

    test('a token that is unknown, expired or meant for another device is refused', async (store) => {
      await store.createEnrolmentTokens([token(1), token(2, { device: id('gw-5') })], line('tokens'));
      const result = async (seed: number, now: number) =>
        (await store.enrolDevice(device('gw-1'), digest(seed), now, line('lost'))).result;
      expect(await result(9, T0)).toBe('token-invalid');
      expect(await result(1, T0 + 1000)).toBe('token-invalid');
      expect(await result(2, T0)).toBe('token-invalid');
      expect(await result(1, T0 + 999)).toBe('enrolled');
    });

    test('a device whose first answer was lost enrols again with the same key and used token', async (store) => {
      await store.createEnrolmentTokens([token(1)], line('tokens'));
      await store.enrolDevice(device('gw-1'), digest(1), T0, line('came'));
      const again = await store.enrolDevice(device('gw-1'), digest(1), T0 + 5000, line('lost'));
      expect(again).toMatchObject({ result: 'known', device: { state: 'accepted' } });
      expect(await kindsOf(store)).toEqual(['tokens', 'came']);
    });

    test('no one takes the id of a device by another key, and no token is spent on trying', async (store) => {
      await store.createEnrolmentTokens([token(1)], line('tokens'));
      await store.enrolDevice(device('gw-1'), null, T0, line('came'));
      const thief = device('gw-1', { publicKey: digest(8) });
      expect(await store.enrolDevice(thief, digest(1), T0, line('lost'))).toEqual({ result: 'id-taken' });
      expect((await store.enrolDevice(device('gw-2'), digest(1), T0, line('came'))).result).toBe('enrolled');
    });

    test('a token made for this very id, and no other, gives it to another key', async (store) => {
      const tokens = [
        token(1),
        token(2, { device: id('gw-1'), tags: { slot: '9' } }),
        token(3, { device: id('gw-2') }),
      ];
      await store.createEnrolmentTokens(tokens, line('tokens'));
      await store.enrolDevice(device('gw-1'), digest(1), T0, line('came'));
      await store.saveReports([report('gw-1', 57, { running: running(), floor: 3, audit: [line('said')] })]);
      await store.setOnline([{ device: id('gw-1'), online: true, boot: id('b1'), at: T0 + 1 }]);
      const newcomer = device('gw-1', { publicKey: digest(8), attributes: { os: 'bsd' } });
      const enrol = (seed: number, now = T0 + 5) =>
        store.enrolDevice({ ...newcomer, enrolledAt: now }, digest(seed), now, line('lost'), line('replaced'));
      for (const refused of [enrol(1), enrol(3), enrol(9), enrol(2, T0 + 1000)])
        expect(await refused).toEqual({ result: 'id-taken' });
      expect(await enrol(2)).toEqual({
        result: 'replaced',
        device: {
          id: 'gw-1',
          publicKey: digest(8),
          state: 'accepted',
          compatible: 'gw2',
          tags: { site: 'lyon', slot: '9' },
          attributes: { os: 'bsd' },
          agent: null,
          running: null,
          floor: 0,
          boot: null,
          online: false,
          healthy: null,
          enrolledAt: T0 + 5,
          lastSeenAt: null,
          desiredSeq: 0,
          reportSeq: 0,
          deployment: null,
        },
      });
      expect((await enrol(2)).result).toBe('known');
      const old = await store.enrolDevice(device('gw-1'), digest(2), T0 + 6, line('lost'), line('lost'));
      expect(old.result).toBe('id-taken');
      expect(await kindsOf(store)).toEqual(['tokens', 'came', 'said', 'replaced']);
      // What was read under the old key is no one's word any more; the newcomer counts from 1.
      await store.saveReports([report('gw-1', 58, { audit: [line('late')] })]);
      await store.saveReports([report('gw-1', 1, { publicKey: digest(8), audit: [line('new')] })]);
      expect(await kindsOf(store)).toEqual(['tokens', 'came', 'said', 'replaced', 'new']);
      expect((await store.getDevice(id('gw-1')))?.reportSeq).toBe(1);
      await store.forgetReports(id('gw-1'));
      expect(await store.getDevice(id('gw-1'))).toMatchObject({ reportSeq: 0, agent: null, boot: null });
    });

    test('a device that was rejected or waits is replaced too, but not by a token from before it was rejected', async (store) => {
      const forGw1 = { device: id('gw-1') };
      await store.createEnrolmentTokens([token(1, forGw1), token(2)], line('tokens'));
      await store.enrolDevice(device('gw-1'), null, T0, line('came'));
      await store.setDeviceState(id('gw-1'), 'rejected', T0, line('rejected'));
      const enrol = async (seed: number, key: number) =>
        store.enrolDevice(device('gw-1', { publicKey: digest(key) }), digest(seed), T0, line('lost'), line('replaced'));
      expect(await enrol(1, 8)).toEqual({ result: 'id-taken' });
      await store.createEnrolmentTokens([token(3, forGw1), token(4, forGw1)], line('tokens'));
      expect(await enrol(3, 8)).toMatchObject({ result: 'replaced', device: { state: 'accepted' } });
      expect((await store.enrolDevice(device('gw-5'), digest(2), T0, line('came'))).result).toBe('enrolled');
      // A caller that does not say how to log it does not replace anything.
      const plain = await store.enrolDevice(device('gw-1', { publicKey: digest(9) }), digest(4), T0, line('lost'));
      expect(plain).toEqual({ result: 'id-taken' });
    });

    test('a pending device is let in by a good token; a rejected one is not', async (store) => {
      await store.createEnrolmentTokens([token(1), token(2)], line('tokens'));
      await store.enrolDevice(device('gw-1'), null, T0, line('came'));
      const letIn = await store.enrolDevice(device('gw-1'), digest(1), T0, line('came-with-token'));
      expect(letIn).toMatchObject({ result: 'enrolled', device: { state: 'accepted', tags: { site: 'lyon' } } });
      await store.setDeviceState(id('gw-1'), 'rejected', T0, line('rejected'));
      const rejected = await store.enrolDevice(device('gw-1'), digest(2), T0, line('lost'));
      expect(rejected).toMatchObject({ result: 'known', device: { state: 'rejected' } });
    });
  });

  describe('devices', () => {
    test('devices are listed by id, in pages, of one state or of all', async (store) => {
      await enrolFleet(store, ['gw-3', 'gw-1']);
      await store.enrolDevice(device('gw-2'), null, T0, line('came'));
      const names = async (state: 'pending' | 'accepted' | undefined, after?: string, limit = 10) =>
        (await store.listDevices({ state }, { after, limit })).map((one) => one.id);
      expect(await names(undefined)).toEqual(['gw-1', 'gw-2', 'gw-3']);
      expect(await names(undefined, 'gw-1', 1)).toEqual(['gw-2']);
      expect(await names('accepted')).toEqual(['gw-1', 'gw-3']);
      expect(await names('accepted', 'gw-1')).toEqual(['gw-3']);
      expect(await names('pending')).toEqual(['gw-2']);
      expect((await store.getDevices([id('gw-3'), id('gw-9'), id('gw-1')])).map((one) => one.id)).toEqual([
        'gw-1',
        'gw-3',
      ]);
    });

    test('a page beyond the limit is an error, not a short page', async (store) => {
      for (const limit of [0, -1, 1.5, 10_001])
        await expect(store.listDevices({}, { limit })).rejects.toThrow('a page has 1 to 10000 entries');
    });

    test('tags are replaced as a whole', async (store) => {
      await enrolFleet(store, ['gw-1']);
      await store.setDeviceTags(id('gw-1'), { site: 'lyon', line: '2' }, line('tagged'));
      const tagged = await store.setDeviceTags(id('gw-1'), { site: 'oslo' }, line('tagged'));
      expect(tagged?.tags).toEqual({ site: 'oslo' });
      expect(await store.setDeviceTags(id('gw-9'), {}, line('lost'))).toBeUndefined();
    });

    test('why a device does not act is an attribute beside its others', async (store) => {
      await store.enrolDevice({ ...device('gw-1'), attributes: { site: 'lyon' } }, null, T0, line('came'));
      const attributes = async () => (await store.getDevice(id('gw-1')))?.attributes;
      await store.noteRefusal(id('gw-1'), 'ROOT_EXPIRED');
      expect(await attributes()).toEqual({ site: 'lyon', refused: 'ROOT_EXPIRED' });
      await store.noteRefusal(id('gw-1'), null);
      expect(await attributes()).toEqual({ site: 'lyon' });
      await store.noteRefusal(id('nobody'), 'ROOT_EXPIRED');
    });

    test('who is connected is known until the server starts again', async (store) => {
      await enrolFleet(store, ['gw-1', 'gw-2']);
      await store.enrolDevice(device('gw-3'), null, T0, line('came'));
      await store.setOnline([
        { device: id('gw-1'), online: true, boot: id('b1'), at: T0 + 1 },
        { device: id('gw-2'), online: true, boot: null, at: T0 + 2 },
        { device: id('gw-2'), online: false, boot: null, at: T0 + 3 },
        { device: id('gw-9'), online: true, boot: null, at: T0 + 3 },
      ]);
      expect(await store.getDevice(id('gw-1'))).toMatchObject({ online: true, boot: 'b1', lastSeenAt: T0 + 1 });
      expect(await store.getDevice(id('gw-2'))).toMatchObject({ online: false, boot: null, lastSeenAt: T0 + 3 });
      expect(await store.countDevices()).toEqual([
        { state: 'accepted', online: false, devices: 1 },
        { state: 'accepted', online: true, devices: 1 },
        { state: 'pending', online: false, devices: 1 },
      ]);
      await store.setAllOffline();
      expect((await store.getDevice(id('gw-1')))?.online).toBe(false);
    });
  });
};
