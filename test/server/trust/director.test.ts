import { expect, test } from 'vitest';
import { signDesired } from '#server/trust/director.ts';
import { Id } from '#shared/ids.ts';
import { Desired, DesiredBatch, DesiredLeaf } from '#shared/messages.ts';
import { leafHash, verifyInclusion } from '#shared/trust/merkle.ts';
import { verifySigned } from '#shared/trust/signed.ts';
import { DAY_MS, NOW, newSigner } from './throw-away.ts';

const director = newSigner();
const times = { issuedAt: NOW, expires: NOW + DAY_MS };
const leavesOf = (count: number): DesiredLeaf[] =>
  Array.from({ length: count }, (_, index) => ({
    type: 'sluice/desired/1',
    device: Id.parse(`gw-${index}`),
    seq: index + 1,
    ...times,
    instruction: { kind: 'none', reason: 'nothing to do' },
  }));

test('each device gets its leaf, and all share one signature', () => {
  for (const count of [1, 2, 3, 7, 100]) {
    const leaves = leavesOf(count);
    const documents = signDesired(director, leaves, times).map((document) => Desired.parse(document));
    expect(documents.map(({ leaf }) => DesiredLeaf.parse(JSON.parse(leaf)))).toEqual(leaves);
    expect(new Set(documents.map(({ batch }) => batch.sig)).size).toBe(1);
    expect(verifySigned(documents[0]!.batch, director.key)).toBe(true);
    const batch = DesiredBatch.parse(JSON.parse(documents[0]!.batch.payload));
    expect(batch).toMatchObject({ size: count, ...times });
    for (const { leaf, index, proof } of documents) {
      const hashes = proof.map((hash) => Buffer.from(hash, 'hex'));
      expect(verifyInclusion(leafHash(leaf), index, count, hashes, Buffer.from(batch.root, 'hex'))).toBe(true);
    }
  }
});

test('nothing is signed for no one', () => {
  expect(signDesired(director, [], times)).toEqual([]);
});

test('ten thousand devices cost one signature, and each document stays small', () => {
  let signatures = 0;
  const counting: typeof director = {
    ...director,
    sign: (bytes) => {
      signatures += 1;
      return director.sign(bytes);
    },
  };
  const documents = signDesired(counting, leavesOf(10_000), times);
  expect(signatures).toBe(1);
  expect(Math.max(...documents.map((document) => JSON.stringify(document).length))).toBeLessThan(2000);
});
