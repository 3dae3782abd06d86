import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { readJournal } from '#agent/deployment/journal.ts';
import { Memory } from '#agent/domain/memory.ts';
import { openBootSelector } from '#agent/slots/boot-selector.ts';
import { seal } from '#agent/slots/sealed.ts';
import { readSlotRecord, type SlotRecord } from '#agent/slots/slot-record.ts';
import { Id, Sha256 } from '#shared/ids.ts';

const DIGEST = Sha256.parse('ab'.repeat(32));

/** What the next version of the agent may write: more fields, everywhere. */
const withMore = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(withMore);
  if (value === null || typeof value !== 'object') return value;
  return {
    ...Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, withMore(inner)])),
    ofTheFuture: { v: 2 },
  };
};

const install = {
  kind: 'install' as const,
  deployment: 'dep-1',
  rollout: 'rol-1',
  product: 'gateway',
  version: '1.1.0',
  compatible: 'gw',
  path: 'fw/gateway/1.1.0/gw.json',
  sha256: DIGEST,
  length: 100,
  securityCounter: 1,
};
const journey = { offer: { seq: 7, expires: 2_000, install }, since: 1_000, transitions: 3 };
const error = { code: 'TRIAL_CRASHED', message: 'gone' };

test.for([
  { state: 'idle' },
  { ...journey, state: 'trial', slot: 'b' },
  { ...journey, state: 'trial', slot: 'b', began: { bootId: 'boot-1', uptimeMs: 5_000 } },
  { ...journey, state: 'committing', slot: 'b' },
  { ...journey, state: 'reverting', slot: 'b', error },
  { ...journey, state: 'reverting', slot: 'b', error, commitStands: true },
  { ...journey, state: 'reverted', slot: 'b', error, receipt: null },
])('the predecessor reads what an agent on trial wrote of $state, and leaves out what it does not know', (state) => {
  const hookRuns = [{ hook: 0, runs: 2, good: false }];
  const memory = Memory.safeParse({ install: state, hookRuns, desiredSeq: 7, last: null, floor: 1, reportSeq: 2_000 });
  if (!memory.success) throw memory.error;
  const body = JSON.stringify({ v: 1, ofTheFuture: true, memory: withMore(memory.data) });
  const line = `${createHash('sha256').update(body).digest('hex').slice(0, 16)} ${body}\n`;
  expect(readJournal(Buffer.from(line))).toMatchObject({ state: 'good', torn: false, newest: memory.data });
});

test('the predecessor reads the boot selector and the slots of an agent on trial', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-older-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const trial = { slot: 'b' as const, triesLeft: 2, deployment: Id.parse('dep-1') };
  await writeFile(join(dir, 'boot.0.json'), seal(withMore({ format: 1, generation: 5, active: 'a', trial }) as object));
  expect(await openBootSelector(dir).read()).toEqual({ state: 'read', selection: { active: 'a', trial } });
  const record = {
    format: 1,
    state: 'bootable',
    running: { product: 'gateway', version: '1.1.0', manifest: DIGEST, slot: 'b' },
    securityCounter: 1,
    run: { command: ['node', 'app.mjs'], environment: {} },
    files: DIGEST,
  };
  // What a manifest says of the application is copied as it was signed: its form changes only with the manifest's.
  const more = { ...(withMore({ ...record, run: null }) as object), run: record.run };
  await writeFile(join(dir, 'b.json'), seal(more));
  expect(await readSlotRecord(dir, 'b')).toMatchObject(record as Partial<SlotRecord>);
});
