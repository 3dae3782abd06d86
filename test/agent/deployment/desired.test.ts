import { expect, onTestFinished, test } from 'vitest';
import { openInbox } from '#agent/deployment/desired.ts';
import type { EventOf } from '#agent/deployment/machine.ts';
import type { InstallState } from '#agent/domain/install-state.ts';
import type { Log } from '#agent/log.ts';
import type { TrustResult } from '#agent/trust/trust-result.ts';
import { Id } from '#shared/ids.ts';
import { Desired, DesiredLeaf } from '#shared/messages.ts';
import { freshMemory, offerOf, receipt } from '../domain/model.ts';
import { until } from '../harness.ts';

const leafOf = (seq: number): DesiredLeaf => {
  const { expires, install } = offerOf(seq);
  const times = { issuedAt: 1, expires };
  return DesiredLeaf.parse({ type: 'sluice/desired/1', device: Id.parse('gw-1'), seq, ...times, instruction: install });
};
const documentOf = (seq: number): Desired =>
  Desired.parse({ leaf: JSON.stringify(leafOf(seq)), index: 0, proof: [], batch: receipt });

/** An inbox that checks as it is told, and what came out of it. */
const openScene = (check: (seq: number) => TrustResult<void>) => {
  const sent: EventOf[] = [];
  const lines: (string | undefined)[] = [];
  const memory = { ...freshMemory(), desiredSeq: 5 };
  const scene = { sent, lines, memory, changes: 0, checks: 0 };
  const note = (_level: string) => (facts: { event?: string }) => void lines.push(facts.event);
  const log: Log = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') } as Log;
  const inbox = openInbox({
    trust: {
      checkDesired: async (desired) => {
        scene.checks += 1;
        const leaf = DesiredLeaf.parse(JSON.parse(desired.leaf));
        const checked = check(leaf.seq);
        return checked.ok ? { ok: true, value: leaf } : checked;
      },
    },
    memory: () => scene.memory,
    send: (event) => sent.push(event),
    changed: () => void (scene.changes += 1),
    backoff: { firstMs: 1, maxMs: 2 },
    log,
  });
  onTestFinished(() => inbox.stop());
  return Object.assign(scene, { inbox });
};
const good = { ok: true, value: undefined } as const;

test('a refusal is told when it comes and when it goes, however often it is met, and logged once', async () => {
  let answer: TrustResult<void> = { ok: false, code: 'ROOT_EXPIRED', message: 'it expired' };
  const scene = openScene(() => answer);
  scene.inbox.receive(documentOf(6));
  await until('it was met often', () => scene.checks > 10);
  expect(scene.inbox.refusal()).toEqual({ seq: 6, code: 'ROOT_EXPIRED', message: 'it expired' });
  expect(scene.changes).toBe(1);
  expect(scene.lines).toEqual(['desired-refused']);
  answer = good;
  await until('it is believed', () => scene.sent.length > 0);
  expect(scene.inbox.refusal()).toBeNull();
  expect(scene.changes).toBe(2);
});

test('what cannot be understood is a refusal, until the server says something that is acted on', async () => {
  const scene = openScene(() => good);
  scene.inbox.receive(undefined);
  expect(scene.inbox.refusal()).toMatchObject({ seq: null, code: 'INSTRUCTION_FORMAT' });
  scene.inbox.receive({ ...documentOf(6), leaf: '{}' });
  expect(scene.changes).toBe(1);
  scene.inbox.receive(documentOf(5));
  await until('it is over', () => scene.inbox.refusal() === null);
  expect(scene.sent).toEqual([]);
});

test('a server that only knows older instructions is told so; one that is merely late is not', async () => {
  const scene = openScene(() => good);
  scene.inbox.receive(documentOf(3));
  await until('it is refused', () => scene.inbox.refusal()?.code === 'INSTRUCTION_REPLAY');
  scene.inbox.receive(documentOf(5));
  await until('it is over', () => scene.inbox.refusal() === null);
  scene.inbox.receive(documentOf(4));
  scene.inbox.receive(documentOf(6));
  await until('the newest is acted on', () => scene.sent.length > 0);
  expect(scene.inbox.refusal()).toBeNull();
  expect(scene.changes).toBe(2);
});

test('an instruction that waits for the end of a trial says so', async () => {
  const scene = openScene(() => good);
  const install = { state: 'trial', offer: offerOf(5) } as unknown as InstallState;
  scene.memory = { ...scene.memory, install };
  scene.inbox.receive(documentOf(6));
  await until('it waits', () => scene.inbox.refusal()?.code === 'BUSY');
  expect(scene.inbox.refusal()?.message).toContain('state trial');
  scene.memory = { ...scene.memory, install: { state: 'idle' } };
  scene.inbox.reconsider();
  await until('it is acted on', () => scene.sent.length > 0);
  expect(scene.inbox.refusal()).toBeNull();
});

test('a disk that takes nothing is a refusal, and the document is tried again', async () => {
  let full = true;
  const scene = openScene(() => {
    if (full) throw new Error('ENOSPC: no space left on device');
    return good;
  });
  scene.inbox.receive(documentOf(6));
  await until('it is refused', () => scene.inbox.refusal()?.code === 'WRITE_FAILED');
  expect(scene.inbox.refusal()?.message).toContain('ENOSPC');
  full = false;
  await until('it is acted on', () => scene.sent.length > 0);
  expect(scene.inbox.refusal()).toBeNull();
});

const silent: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

test('what a clock that is ahead takes for expired is believed once the clock was set, though no one says it again', async () => {
  const { seq, expires, install } = offerOf(1);
  const leaf = DesiredLeaf.parse({
    type: 'sluice/desired/1',
    device: Id.parse('gw-1'),
    seq,
    issuedAt: 1,
    expires,
    instruction: install,
  });
  const clock = { now: expires + 1 };
  const refused: string[] = [];
  const sent: EventOf[] = [];
  const inbox = openInbox({
    trust: {
      checkDesired: async () => {
        if (clock.now < expires) return { ok: true, value: leaf };
        refused.push('INSTRUCTION_EXPIRED');
        return { ok: false, code: 'INSTRUCTION_EXPIRED', message: 'it expired' };
      },
    },
    memory: freshMemory,
    send: (event) => sent.push(event),
    backoff: { firstMs: 1, maxMs: 10 },
    log: silent,
  });
  onTestFinished(() => inbox.stop());
  inbox.receive(Desired.parse({ leaf: JSON.stringify(leaf), index: 0, proof: [], batch: receipt }));
  await until('it was refused', () => refused.length > 0);
  expect(sent).toEqual([]);
  clock.now = 1;
  await until('it is believed', () => sent.length > 0);
  expect(sent[0]).toMatchObject({ kind: 'offered', offer: { seq } });
});
