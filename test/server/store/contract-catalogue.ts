import { describe, expect } from 'vitest';
import type { OpenStore } from './contract.ts';
import { bundle, digest, enrolFleet, GATEWAY, id, kindsOf, line, metadata, report, running, T0 } from './records.ts';
import { storeTest } from './with-store.ts';

const withOperator = {
  name: 'olga',
  role: 'operator' as const,
  tokenSha256: digest(1),
  createdAt: T0,
  revokedAt: null,
};

export const describeCatalogue = (open: OpenStore): void => {
  const test = storeTest(open);

  describe('products', () => {
    test('a product is made once, and only then logged', async (store) => {
      expect(await store.createProduct(GATEWAY, line('product-created'))).toBe('created');
      expect(await store.createProduct({ ...GATEWAY, keys: [] }, line('product-created'))).toBe('exists');
      expect(await store.getProduct(GATEWAY.name)).toEqual(GATEWAY);
      expect(await store.getProduct(id('other'))).toBeUndefined();
      expect(await kindsOf(store)).toEqual(['product-created']);
    });

    test('products are listed by name, in pages', async (store) => {
      for (const name of ['c', 'a', 'b']) await store.createProduct({ ...GATEWAY, name: id(name) }, line('made'));
      expect((await store.listProducts()).map(({ name }) => name)).toEqual(['a', 'b', 'c']);
      expect((await store.listProducts({ after: 'a', limit: 1 })).map(({ name }) => name)).toEqual(['b']);
    });
  });

  describe('releases', () => {
    test('bundles are accepted together with the metadata that lists them', async (store) => {
      await store.createProduct(GATEWAY, line('product-created'));
      const bundles = [bundle('1.0.0', 'gw2', 1), bundle('1.0.0', 'gw3', 2)];
      expect(await store.acceptBundles(bundles, metadata(1), [line('one'), line('two')])).toBe('accepted');
      expect(await store.getRelease(id('gateway'), '1.0.0')).toEqual({
        product: 'gateway',
        version: '1.0.0',
        progress: { state: 'accepted' },
        acceptedAt: T0,
        bundles,
      });
      expect(await store.findBundle(digest(2))).toEqual(bundles[1]);
      expect(await store.findBundle(digest(3))).toBeUndefined();
      expect(await store.getDelegationMetadata(id('gateway'))).toEqual({ version: 1, document: '{"version":1}' });
      expect(await kindsOf(store)).toEqual(['product-created', 'one', 'two']);
    });

    test('a version that is taken refuses all of its bundles and leaves nothing behind', async (store) => {
      await store.createProduct(GATEWAY, line('product-created'));
      await store.acceptBundles([bundle('1.0.0', 'gw2', 1)], metadata(1), []);
      const mixed = [bundle('1.0.0', 'gw3', 5, 2), bundle('1.0.0', 'gw2', 6, 2)];
      expect(await store.acceptBundles(mixed, metadata(2), [line('lost')])).toBe('taken');
      const twice = [bundle('2.0.0', 'gw2', 7, 2), bundle('2.0.0', 'gw2', 8, 2)];
      expect(await store.acceptBundles(twice, metadata(2), [line('lost')])).toBe('taken');
      const sameManifest = [bundle('2.0.0', 'gw2', 1, 2)];
      expect(await store.acceptBundles(sameManifest, metadata(2), [line('lost')])).toBe('taken');
      expect((await store.getRelease(id('gateway'), '1.0.0'))?.bundles).toHaveLength(1);
      expect(await store.getRelease(id('gateway'), '2.0.0')).toBeUndefined();
      expect((await store.getDelegationMetadata(id('gateway')))?.version).toBe(1);
      expect(await kindsOf(store)).toEqual(['product-created']);
    });

    test('a release takes further hardware only while it is merely accepted', async (store) => {
      await store.createProduct(GATEWAY, line('product-created'));
      await store.acceptBundles([bundle('1.0.0', 'gw2', 1)], metadata(1), []);
      expect(await store.acceptBundles([bundle('1.0.0', 'gw3', 2, 2)], metadata(2), [])).toBe('accepted');
      const staged = { state: 'staged' as const, channels: [id('staging')] };
      await store.saveRelease(id('gateway'), '1.0.0', { state: 'accepted' }, staged, line('staged'));
      expect(await store.acceptBundles([bundle('1.0.0', 'gw4', 3, 3)], metadata(3), [])).toBe('taken');
    });

    test('the latest result of each check counts, and is logged only when it is new', async (store) => {
      await store.createProduct(GATEWAY, line('product-created'));
      await store.acceptBundles([bundle('1.0.0', 'gw2', 1)], metadata(1), []);
      const word = { product: id('gateway'), version: '1.0.0', check: id('e2e'), link: null, at: T0, by: 'ci' };
      expect(await store.saveCheck({ ...word, outcome: 'pass' }, line('passed'))).toBe('saved');
      expect(await store.saveCheck({ ...word, outcome: 'pass', at: T0 + 1 }, line('again'))).toBe('known');
      expect(await store.saveCheck({ ...word, outcome: 'fail', link: 'https://x.example' }, line('failed'))).toBe(
        'saved',
      );
      const { checks } = await store.getReleaseEvidence(id('gateway'), '1.0.0');
      expect(checks).toEqual([{ ...word, outcome: 'fail', link: 'https://x.example' }]);
      for (let n = 1; n < 64; n += 1) {
        await store.saveCheck({ ...word, outcome: 'pass', check: id(`c-${n}`) }, line('more'));
      }
      expect(await store.saveCheck({ ...word, outcome: 'pass', check: id('one-more') }, line('lost'))).toBe('full');
      expect(new Set(await kindsOf(store))).toEqual(new Set(['product-created', 'passed', 'failed', 'more']));
    });

    test('each person approves a release for a channel once; another bundle makes all of that void', async (store) => {
      await store.createProduct(GATEWAY, line('product-created'));
      await store.acceptBundles([bundle('1.0.0', 'gw2', 1)], metadata(1), []);
      const given = {
        product: id('gateway'),
        version: '1.0.0',
        channel: id('production'),
        by: 'zoe',
        note: 'ok',
        at: T0,
      };
      expect(await store.approveRelease(given, line('approved'))).toBe('approved');
      expect(await store.approveRelease({ ...given, note: 'again' }, line('lost'))).toBe('known');
      const bob = { ...given, by: 'bob' };
      const staging = { ...given, channel: id('staging') };
      for (const more of [bob, staging]) expect(await store.approveRelease(more, line('approved'))).toBe('approved');
      const evidence = await store.getReleaseEvidence(id('gateway'), '1.0.0');
      expect(evidence).toEqual({ checks: [], approvals: [given, bob, staging] });
      await store.acceptBundles([bundle('1.0.0', 'gw3', 2, 2)], metadata(2), []);
      expect((await store.getReleaseEvidence(id('gateway'), '1.0.0')).approvals).toEqual([]);
      expect(await kindsOf(store)).toEqual(['product-created', 'approved', 'approved', 'approved']);
    });

    test('a change is found in every bundle that names it, and on every accepted device that runs one', async (store) => {
      await store.createProduct(GATEWAY, line('product-created'));
      const naming = (made: ReturnType<typeof bundle>, changes: string[]) => ({
        ...made,
        manifest: { ...made.manifest, changes },
      });
      await store.acceptBundles([naming(bundle('1.0.0', 'gw2', 1), ['GW-1', 'GW-1'])], metadata(1), []);
      const two = [
        naming(bundle('1.1.0', 'gw2', 2, 2), ['GW-1', 'GW-2']),
        naming(bundle('1.1.0', 'gw3', 3, 2), ['GW-2']),
      ];
      await store.acceptBundles(two, metadata(2), []);
      await enrolFleet(store, ['d1', 'd2', 'd3', 'd4']);
      await store.saveReports(
        ['d1', 'd2', 'd3'].map((name, n) => report(name, 1, { running: running(digest([1, 2, 2][n]!)) })),
      );
      await store.setDeviceState(id('d3'), 'rejected', T0, line('rejected'));
      const found = { product: 'gateway', progress: { state: 'accepted' }, compatible: 'gw2', devices: 1 };
      expect(await store.findChange('GW-1')).toEqual([
        { ...found, version: '1.1.0' },
        { ...found, version: '1.0.0' },
      ]);
      expect(await store.findChange('GW-2')).toEqual([
        { ...found, version: '1.1.0' },
        { ...found, version: '1.1.0', compatible: 'gw3', devices: 0 },
      ]);
      expect(await store.findChange('gw-2')).toEqual([]);
      const runs = { product: 'gateway', compatible: 'gw2', online: false };
      expect(await store.listDevicesWithChange('GW-1', { limit: 9 })).toEqual([
        { ...runs, device: 'd1', version: '1.0.0' },
        { ...runs, device: 'd2', version: '1.1.0' },
      ]);
      expect(await store.listDevicesWithChange('GW-1', { after: 'd1', limit: 1 })).toMatchObject([{ device: 'd2' }]);
    });

    test('metadata must follow the newest accepted one by exactly one', async (store) => {
      await store.createProduct(GATEWAY, line('product-created'));
      expect(await store.getDelegationMetadata(id('gateway'))).toBeUndefined();
      expect(await store.acceptBundles([bundle('1.0.0', 'gw2', 1)], metadata(2), [])).toBe('metadata-conflict');
      await store.acceptBundles([bundle('1.0.0', 'gw2', 1)], metadata(1), []);
      expect(await store.acceptBundles([bundle('1.1.0', 'gw2', 2)], metadata(1), [])).toBe('metadata-conflict');
      await store.acceptBundles([bundle('1.1.0', 'gw2', 2, 2)], metadata(2), []);
      expect(await store.getDelegationMetadata(id('gateway'))).toMatchObject({ version: 2 });
      expect(await store.getDelegationMetadata(id('gateway'), 1)).toMatchObject({ version: 1 });
      expect(await store.getDelegationMetadata(id('gateway'), 3)).toBeUndefined();
    });

    test('a release changes state only from the state that was read', async (store) => {
      await store.createProduct(GATEWAY, line('product-created'));
      await store.acceptBundles([bundle('1.0.0', 'gw2', 1)], metadata(1), []);
      const staged = { state: 'staged' as const, channels: [id('staging')] };
      const withdrawn = { state: 'withdrawn' as const, at: T0, by: 'olga', reason: 'burns' };
      const change = (from: Parameters<typeof store.saveRelease>[2], to: Parameters<typeof store.saveRelease>[3]) =>
        store.saveRelease(id('gateway'), '1.0.0', from, to, line('changed'));
      expect(await change({ state: 'accepted' }, staged)).toBe('saved');
      expect(await change({ state: 'accepted' }, withdrawn)).toBe('conflict');
      expect(await change({ channels: [id('staging')], state: 'staged' }, withdrawn)).toBe('saved');
      expect((await store.getRelease(id('gateway'), '1.0.0'))?.progress).toEqual(withdrawn);
      expect(await kindsOf(store)).toEqual(['product-created', 'changed', 'changed']);
    });

    test('releases are listed newest first, in pages, of one product or of all', async (store) => {
      await store.createProduct(GATEWAY, line('product-created'));
      for (const [index, version] of ['1.0.0', '1.2.0', '1.1.0'].entries())
        await store.acceptBundles([bundle(version, 'gw2', index + 1, index + 1)], metadata(index + 1), []);
      const versions = async (after?: string, limit = 10) =>
        (await store.listReleases({ product: id('gateway') }, { after, limit })).map(({ version }) => version);
      expect(await versions()).toEqual(['1.1.0', '1.2.0', '1.0.0']);
      expect(await versions(undefined, 2)).toEqual(['1.1.0', '1.2.0']);
      expect(await versions('gateway@1.2.0')).toEqual(['1.0.0']);
      expect(await store.listReleases({ product: id('other') }, { limit: 10 })).toEqual([]);
      expect(await store.listReleases({}, { limit: 10 })).toHaveLength(3);
    });

    test('every artifact and attachment of a bundle is referenced', async (store) => {
      await store.createProduct(GATEWAY, line('product-created'));
      expect(await store.listReferencedObjects()).toEqual([]);
      await store.acceptBundles([bundle('1.0.0', 'gw2', 1), bundle('1.0.0', 'gw3', 2)], metadata(1), []);
      expect(await store.listReferencedObjects()).toEqual([digest(1001), digest(1002), digest(2001), digest(2002)]);
    });
  });

  describe('operators', () => {
    test('a revoked operator is listed, but its token finds no one', async (store) => {
      expect(await store.createOperator(withOperator, line('operator-created'))).toBe('created');
      expect(await store.createOperator({ ...withOperator, tokenSha256: digest(2) }, line('lost'))).toBe('exists');
      expect(await store.findOperator(digest(1))).toEqual(withOperator);
      expect(await store.findOperator(digest(2))).toBeUndefined();
      expect(await store.revokeOperator('olga', T0 + 5, line('operator-revoked'))).toBe('revoked');
      expect(await store.revokeOperator('olga', T0 + 6, line('lost'))).toBe('not-found');
      expect(await store.findOperator(digest(1))).toBeUndefined();
      expect(await store.listOperators()).toEqual([{ ...withOperator, revokedAt: T0 + 5 }]);
      expect(await kindsOf(store)).toEqual(['operator-created', 'operator-revoked']);
    });
  });

  describe('cohorts and small values', () => {
    test('a cohort keeps its list or its selector', async (store) => {
      const list = { name: id('lab'), members: { kind: 'list' as const, devices: [id('gw-1')] }, createdAt: T0 };
      const selected = { name: id('eu'), members: { kind: 'selector' as const, selector: 'site=lyon' }, createdAt: T0 };
      expect(await store.createCohort(list, line('cohort-created'))).toBe('created');
      expect(await store.createCohort(selected, line('cohort-created'))).toBe('created');
      expect(await store.createCohort({ ...list, members: selected.members }, line('lost'))).toBe('exists');
      expect(await store.getCohort(id('lab'))).toEqual(list);
      expect(await store.getCohort(id('none'))).toBeUndefined();
      expect(await store.listCohorts()).toEqual([selected, list]);
      expect(await kindsOf(store)).toEqual(['cohort-created', 'cohort-created']);
    });

    test('a small value is the last one set', async (store) => {
      expect(await store.getMeta('checkpoint')).toBeUndefined();
      await store.setMeta('checkpoint', 'one');
      await store.setMeta('checkpoint', 'two');
      expect(await store.getMeta('checkpoint')).toBe('two');
    });
  });
};
