/**
 * Packs that go away, lie, or come from servers that can do little: the artifact comes all the same, at most without
 * them.
 */
import type { ServerResponse } from 'node:http';
import { expect, test } from 'vitest';
import { packOf } from '#test/shared/transfer/bytes.ts';
import { edited, openRig, prose, sha256 } from './rig.ts';

const V1 = prose('v1', 1_500_000);
const MANY = prose('many', 4_000_000);
const CHANGED = edited(MANY, 24);
const HEADER = 80;
const RECORD = 16;

/** Half of the pack comes, and then there is none any more. */
const takenAway = (rig: Awaited<ReturnType<typeof openRig>>, meanwhile: () => void): void => {
  rig.state.misbehave = ({ path }, response, object) => {
    if (path !== `/o/${rig.pack.sha256}` || object === undefined) return false;
    rig.objects.delete(rig.pack.sha256);
    meanwhile();
    response.writeHead(200, { 'content-length': object.length });
    response.write(object.subarray(0, object.length / 2), () => setTimeout(() => response.destroy(), 20));
    return true;
  };
};

test('a pack that is taken away while it is read is done without', async () => {
  const rig = await openRig(V1);
  takenAway(rig, () => undefined);
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  expect(rig.counts.attempts).toBeLessThan(3);
  // As long as the server names it all the same.
  expect(rig.asked.filter(({ path }) => path.startsWith('/device/v1/pack'))).toHaveLength(3);
});

test('a pack that is replaced while it is read is followed by the one in its place', async () => {
  const rig = await openRig(V1);
  const better = packOf(null, V1, 9);
  const pack = { ...rig.pack, sha256: sha256(better), bytes: better.length };
  rig.objects.set(pack.sha256, better);
  takenAway(rig, () => {
    rig.state.pack = pack;
  });
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  expect(rig.asked.some(({ path }) => path === `/o/${pack.sha256}`)).toBe(true);
  // One by itself in between.
  expect(rig.asked.filter(({ path }) => rig.records.some((record) => path === `/o/${record.sha256}`))).toHaveLength(1);
});

for (const status of [400, 403, 410, 416, 500]) {
  test(`a pack that is answered ${status} is done without`, async () => {
    const rig = await openRig(V1);
    rig.state.misbehave = ({ path }, response) => {
      if (path !== `/o/${rig.pack.sha256}`) return false;
      response.writeHead(status).end();
      return true;
    };
    expect(await rig.outcome(await rig.fetch())).toBe('whole');
  });
}

const lies: [string, (response: ServerResponse, object: Buffer) => void][] = [
  ['another range', (response) => response.writeHead(206, { 'content-range': 'bytes 7-9/10' }).end('123')],
  ['too much', (response, object) => response.writeHead(200).end(Buffer.concat([object, object]))],
  ['too little', (response, object) => response.writeHead(200).end(object.subarray(0, 50))],
];
for (const [what, lie] of lies) {
  test(`a pack of which ${what} comes is left after a few chunks`, async () => {
    const rig = await openRig(V1);
    let asked = 0;
    rig.state.misbehave = ({ path }, response, object) => {
      if (path !== `/o/${rig.pack.sha256}`) return false;
      asked += 1;
      lie(response, object!);
      return true;
    };
    expect(await rig.outcome(await rig.fetch())).toBe('whole');
    expect(asked).toBeLessThanOrEqual(18);
  });
}

test('a pack that is told to be shorter than its table, or of no bytes, is done without', async () => {
  for (const bytes of [0, 1, 90]) {
    const rig = await openRig(V1);
    rig.state.pack = { ...rig.pack, bytes };
    expect(await rig.outcome(await rig.fetch())).toBe('whole');
  }
});

test('a table that names chunks that the artifact has not is not read', async () => {
  const rig = await openRig(CHANGED, { old: MANY, pack: 'from nothing' });
  const lying = Buffer.from(rig.packed);
  for (let entry = rig.records.length - 40; entry < rig.records.length; entry += 1)
    lying.writeUIntLE(0xff0000 + entry, HEADER + entry * RECORD + 1, 3);
  rig.objects.set(rig.pack.sha256, lying);
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
});

test('of a server that knows no ranges a pack is read once', async () => {
  const rig = await openRig(CHANGED, { old: MANY, pack: 'from nothing' });
  rig.state.misbehave = ({ path }, response, object) => {
    if (path !== `/o/${rig.pack.sha256}`) return false;
    response.end(object);
    return true;
  };
  expect(await rig.outcome(await rig.fetch())).toBe('whole');
  // Once for the table.
  expect(rig.asked.filter(({ path }) => path === `/o/${rig.pack.sha256}`)).toHaveLength(2);
});
