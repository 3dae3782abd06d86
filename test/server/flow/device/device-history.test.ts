import { beforeEach, expect, test } from 'vitest';
import { auditLine, byDevice } from '#server/domain/audit.ts';
import { deviceHistory } from '#server/flow/device/device-history.ts';
import { Receipt } from '#shared/deployment.ts';
import { Id } from '#shared/ids.ts';
import { signPayload } from '#shared/trust/signed.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { digest } from '#test/server/store/records.ts';
import { enrolFleet, GATEWAY, must, newSigner, T0, worldOfEachTest } from '../world.ts';

const world = worldOfEachTest();
beforeEach(async () => {
  await enrolFleet(world, 2);
});

const GW1 = Id.parse('gw-1');
/** In these tests every device has the key of the world's CI. */
const recordReceipt = async (signer: Signer, more: Partial<Receipt> = {}, device = GW1): Promise<void> => {
  const receipt = Receipt.parse({
    type: 'sluice/receipt/1',
    device: GW1,
    deployment: Id.parse('r-1'),
    rollout: Id.parse('r'),
    product: GATEWAY,
    version: '1.0.0',
    manifest: digest(1),
    outcome: 'committed',
    running: null,
    boot: Id.parse('b'),
    seq: 1,
    at: T0,
    ...more,
  });
  const signed = signPayload(signer, receipt);
  const event = { at: T0, by: byDevice(device), kind: 'receipt' as const, device, deployment: receipt.deployment };
  await world.store.appendAudit([auditLine({ ...event, receipt: signed })]);
};
const newest = async () => must(await deviceHistory(world, GW1, { limit: 1 })).entries[0];

test('a receipt tells which release ended how, and its signature is checked again', async () => {
  await recordReceipt(world.ci);
  expect(await newest()).toMatchObject({
    kind: 'receipt',
    release: 'gateway@1.0.0',
    outcome: 'committed',
    verified: true,
  });
});

test('a receipt that another key signed is shown as not verified', async () => {
  await recordReceipt(newSigner());
  expect(await newest()).toMatchObject({ kind: 'receipt', verified: false });
});

test('a receipt is checked with the key that the device had then', async () => {
  const second = newSigner();
  await recordReceipt(world.ci, { version: '1.0.0' });
  await world.store.appendAudit([
    auditLine({
      at: T0,
      by: byDevice(GW1),
      kind: 'device-enrolled',
      device: GW1,
      publicKey: second.key.keyval.public,
      compatible: Id.parse('gw2'),
      state: 'accepted',
      replaced: true,
    }),
  ]);
  await recordReceipt(second, { version: '1.1.0' });
  await recordReceipt(world.ci, { version: '1.2.0' });
  const history = must(await deviceHistory(world, GW1, { limit: 100 }));
  const receipts = history.entries.filter(({ kind }) => kind === 'receipt');
  expect(receipts.map(({ release, verified }) => [release, verified])).toEqual([
    ['gateway@1.2.0', false],
    ['gateway@1.1.0', true],
    ['gateway@1.0.0', true],
  ]);
  // The same on a page that begins below the enrolment.
  const rest = must(await deviceHistory(world, GW1, { limit: 1, after: String(receipts[2]!.index + 1) }));
  expect(rest.entries[0]).toMatchObject({ release: 'gateway@1.0.0', verified: true });
});

test('a receipt of another device does not count for this one', async () => {
  await recordReceipt(world.ci, { device: Id.parse('gw-2') });
  expect(await newest()).toMatchObject({ kind: 'receipt', verified: false });
});

test('history is newest first and comes in pages', async () => {
  await recordReceipt(world.ci, { version: '1.0.0' });
  await recordReceipt(world.ci, { version: '1.1.0', outcome: 'reverted' });
  const first = must(await deviceHistory(world, GW1, { limit: 2 }));
  expect(first.entries.map(({ release, outcome }) => [release, outcome])).toEqual([
    ['gateway@1.1.0', 'reverted'],
    ['gateway@1.0.0', 'committed'],
  ]);
  const rest = must(await deviceHistory(world, GW1, { limit: 100, after: first.next ?? undefined }));
  expect(rest.entries.map(({ kind }) => kind)).toEqual(['device-accepted', 'device-enrolled']);
  expect(rest.next).toBeNull();
});

test('a device that is not known has no history', async () => {
  expect(await deviceHistory(world, Id.parse('nobody'), { limit: 1 })).toMatchObject({ code: 'not-found' });
});
