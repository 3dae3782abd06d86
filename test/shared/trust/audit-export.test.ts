import * as fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { Id, Sha256 } from '#shared/ids.ts';
import { linesOf } from '#shared/lines.ts';
import {
  type AuditVerification,
  auditExportLines,
  EXPORT_LINE_CHARS_MAX,
  verifyAuditExport,
} from '#shared/trust/audit-export.ts';
import { canonicalJson } from '#shared/trust/canonical.ts';
import { signCheckpoint } from '#shared/trust/checkpoint.ts';
import { appendLeaf, EMPTY_HEAD, leafHash } from '#shared/trust/merkle.ts';
import { signPayload } from '#shared/trust/signed.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { NOW, newSigner, type ThrowAway, throwAway } from '#test/server/trust/throw-away.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';

const device = newSigner();
const receipt = (signer: Signer, changes: object = {}) =>
  signPayload(signer, {
    type: 'sluice/receipt/1',
    device: 'gw-01',
    deployment: 'd1',
    rollout: 'r1',
    product: 'gateway',
    version: '1.0.0',
    manifest: 'a'.repeat(64),
    outcome: 'committed',
    running: null,
    boot: 'b1',
    seq: 1,
    at: NOW,
    ...changes,
  });
const enrolled = (name: string, signer: Signer): string =>
  canonicalJson({
    at: NOW,
    by: 'ops',
    kind: 'device-enrolled',
    device: name,
    publicKey: signer.key.keyval.public,
    compatible: 'gw2',
    state: 'accepted',
  });
const received = (signed: ReturnType<typeof receipt>, changes: object = {}): string =>
  canonicalJson({
    at: NOW,
    by: 'device:gw-01',
    kind: 'receipt',
    device: 'gw-01',
    deployment: 'd1',
    receipt: signed,
    ...changes,
  });
const note = (text: string): string =>
  canonicalJson({ at: NOW, by: 'ops', kind: 'rollout-paused', rollout: 'r1', note: text });
const PAYLOADS = [note('one\ntwo'), enrolled('gw-01', device), note('three'), received(receipt(device)), note('four')];

const headOf = (payloads: string[]) =>
  payloads.reduce((head, payload) => appendLeaf(head, leafHash(payload)), EMPTY_HEAD);
const collect = async (lines: AsyncIterable<string>): Promise<string[]> => {
  const all: string[] = [];
  for await (const line of lines) all.push(line);
  return all;
};
async function* each<T>(items: T[]): AsyncGenerator<T> {
  yield* items;
}
const exported = async ({ repository, keyring }: ThrowAway, payloads: string[]): Promise<string[]> => {
  const entries = each(payloads.map((payload, index) => ({ index, payload })));
  const [roots, targets] = [await repository.rootDocuments(), await repository.targetsDocument()];
  const lines = auditExportLines({ roots, targets, head: headOf(payloads), entries, log: keyring.log, at: NOW });
  return collect(lines);
};
const verify = (lines: string[], rootSha256?: string): Promise<AuditVerification> =>
  verifyAuditExport(each(lines), rootSha256 === undefined ? {} : { rootSha256 });

test('a whole export verifies, from the pinned root to each receipt', async () => {
  const server = await throwAway();
  const lines = await exported(server, PAYLOADS);
  const root = server.repository.rootSha256;
  expect(await verify(lines, root)).toMatchObject({ ok: true, entries: 5, receipts: 1 });
  expect(await verify(lines)).toMatchObject({ ok: true });
  expect(await verify(await exported(server, []), root)).toMatchObject({ ok: true, entries: 0 });
});

test('an export verifies as a file whatever stands in its entries: only LF ends a line', async () => {
  const server = await throwAway();
  const nasty = [
    'pasted\u2028second',
    'a\u2029b',
    'next\u0085line',
    'carriage\rreturn',
    'nul\0',
    'half \ud83d',
    '\ufeff',
  ];
  const file = async (payloads: string[]): Promise<AuditVerification> => {
    const text = (await exported(server, payloads)).map((line) => `${line}\n`).join('');
    return verifyAuditExport(linesOf(each([Buffer.from(text)]), EXPORT_LINE_CHARS_MAX), {});
  };
  expect(await file([...nasty.map(note), enrolled('gw-01', device), received(receipt(device))])).toMatchObject({
    ok: true,
    entries: nasty.length + 2,
  });
  await fc.assert(
    fc.asyncProperty(fc.array(fc.string({ unit: 'binary' }), { maxLength: 5 }), async (notes) => {
      expect(await file(notes.map(note))).toMatchObject({ ok: true, entries: notes.length });
    }),
    { numRuns: 25 },
  );
});

test('a file that was converted to lines with CR LF is named as such', async () => {
  const lines = await exported(await throwAway(), PAYLOADS);
  expect(await verify(lines.map((line) => `${line}\r`))).toMatchObject({
    ok: false,
    why: expect.stringContaining('CR LF'),
  });
});

test('an export stays good after the root was renewed, and when all has expired', async () => {
  const server = await throwAway();
  server.clock.now += 300 * 86_400_000;
  await server.repository.refresh();
  expect((await server.repository.rootDocuments()).length).toBe(2);
  expect(await verify(await exported(server, PAYLOADS), server.repository.rootSha256)).toMatchObject({ ok: true });
});

describe('an export that was tampered with', async () => {
  const server = await throwAway(newSigner(), afterAll);
  const lines = await exported(server, PAYLOADS);
  const found = async (changed: string[]): Promise<number> => {
    const verdict = await verify(changed, server.repository.rootSha256);
    return verdict.ok ? 0 : verdict.line;
  };

  test('one flipped byte anywhere in any line is found', async () => {
    for (const [index, line] of lines.entries()) {
      const step = Math.max(1, Math.floor(line.length / (ALL_SWEEPS ? 400 : 25)));
      for (let place = 0; place < line.length; place += step) {
        const flipped = line.slice(0, place) + String.fromCharCode(line.charCodeAt(place) ^ 1) + line.slice(place + 1);
        expect(await found(lines.with(index, flipped)), `line ${index + 1}, character ${place}`).toBeGreaterThan(0);
      }
    }
  });
  test('a removed entry is found where it is missing', async () => {
    for (let index = 1; index < lines.length - 1; index += 1)
      expect(await found(lines.toSpliced(index, 1))).toBe(index + 1);
  });
  test('two entries that changed places are found, renumbered or not', async () => {
    const swapped = lines.with(1, lines[3]!).with(3, lines[1]!);
    expect(await found(swapped)).toBe(2);
    const renumbered = [PAYLOADS[2]!, PAYLOADS[1]!, PAYLOADS[0]!, ...PAYLOADS.slice(3)];
    const entries = renumbered.map((payload, index) => canonicalJson({ index, payload }));
    expect(await found([lines[0]!, ...entries, lines.at(-1)!])).toBe(lines.length);
  });
  test('a cut-off export is found', async () => {
    for (let length = 0; length < lines.length; length += 1)
      expect(await found(lines.slice(0, length))).toBe(length + 1);
  });
  test('something after the checkpoint is found', async () => {
    expect(await found([...lines, lines[1]!])).toBe(lines.length + 1);
  });
  test('another server with another root is found, unless no one says which root it should be', async () => {
    const other = await exported(await throwAway(newSigner(), undefined, 'others'), PAYLOADS);
    expect(await found(other)).toBe(1);
    expect(await verify(other)).toMatchObject({ ok: true });
  });
  test('a log rewritten and signed by another key is found', async () => {
    const rewritten = PAYLOADS.slice(0, 3);
    const entries = rewritten.map((payload, index) => canonicalJson({ index, payload }));
    const checkpoint = canonicalJson({ checkpoint: signCheckpoint(newSigner(), headOf(rewritten), NOW) });
    expect(await found([lines[0]!, ...entries, checkpoint])).toBe(5);
  });
  test('targets metadata that names another log key, and a root chain that is not one, are found', async () => {
    const header = JSON.parse(lines[0]!);
    const other = await throwAway(newSigner(), undefined, 'others');
    const targets = await other.repository.targetsDocument();
    expect(await found(lines.with(0, JSON.stringify({ ...header, targets })))).toBe(1);
    const roots = [...header.roots, (await other.repository.rootDocuments())[0]];
    expect(await found(lines.with(0, JSON.stringify({ ...header, roots })))).toBe(1);
  });
});

describe('receipts, even in a log that the log key signed', () => {
  const judge = async (payloads: string[]): Promise<AuditVerification> =>
    verify(await exported(await throwAway(), payloads));
  const forged = newSigner();

  test('that another key signed are found', async () => {
    const good = received(receipt(device));
    expect(await judge([enrolled('gw-01', device), good, received(receipt(forged))])).toMatchObject({
      ok: false,
      line: 4,
    });
  });
  test('are verified with the key of their time when a device enrolled again', async () => {
    const second = newSigner();
    const good = [enrolled('gw-01', device), received(receipt(device)), enrolled('gw-01', second)];
    expect(await judge([...good, received(receipt(second))])).toMatchObject({ ok: true, receipts: 2 });
    expect(await judge([...good, received(receipt(device))])).toMatchObject({ ok: false, line: 5 });
    const early = [enrolled('gw-01', device), received(receipt(second)), enrolled('gw-01', second)];
    expect(await judge(early)).toMatchObject({ ok: false, line: 3 });
  });
  test('of a device that never enrolled are found', async () => {
    expect(await judge([received(receipt(device))])).toMatchObject({ ok: false, line: 2 });
  });
  test('whose payload was changed are found', async () => {
    const signed = receipt(device);
    const changed = { ...signed, payload: signed.payload.replace('committed', 'reverted') };
    expect(await judge([enrolled('gw-01', device), received(changed)])).toMatchObject({ ok: false, line: 3 });
  });
  test('filed under another deployment or device than they are about are found', async () => {
    const elsewhere = received(receipt(device, { deployment: 'd2' }));
    expect(await judge([enrolled('gw-01', device), elsewhere])).toMatchObject({ ok: false, line: 3 });
    const other = received(receipt(device), { device: 'gw-02' });
    expect(await judge([enrolled('gw-02', device), other])).toMatchObject({ ok: false, line: 3 });
    expect(await judge([canonicalJson({ at: NOW, by: 'x', kind: 'receipt' })])).toMatchObject({ ok: false, line: 2 });
  });
});

test('a log whose entries do not give its recorded root is not vouched for', async () => {
  const { repository, keyring } = await throwAway();
  const [roots, targets] = [await repository.rootDocuments(), await repository.targetsDocument()];
  const attempt = (payloads: string[]) =>
    collect(
      auditExportLines({
        roots,
        targets,
        head: headOf(PAYLOADS),
        entries: each(payloads.map((payload, index) => ({ index, payload }))),
        log: keyring.log,
        at: NOW,
      }),
    );
  await expect(attempt(PAYLOADS.slice(1))).rejects.toThrow('damaged');
  await expect(attempt(PAYLOADS.toReversed())).rejects.toThrow('damaged');
  // The log went on meanwhile: what the head covers is exported.
  expect((await attempt([...PAYLOADS, note('later')])).length).toBe(PAYLOADS.length + 2);
});

test('a hundred thousand entries verify in seconds, not in hours', async () => {
  const server = await throwAway();
  const payloads = Array.from({ length: 100_000 }, (_, index) =>
    canonicalJson({
      at: NOW,
      by: 'server',
      kind: 'wave-opened',
      rollout: Id.parse('r1'),
      wave: index,
      why: 'enough evidence',
    }),
  );
  const lines = await exported(server, payloads);
  expect(await verify(lines, Sha256.parse(server.repository.rootSha256))).toMatchObject({ ok: true, entries: 100_000 });
});
