import { expect, onTestFinished, test } from 'vitest';
import { openInbox } from '#agent/desired.ts';
import type { Log } from '#agent/log.ts';
import type { EventOf } from '#agent/machine.ts';
import { Id } from '#shared/ids.ts';
import { Desired, DesiredLeaf } from '#shared/messages.ts';
import { freshMemory, offerOf, receipt } from './domain/model.ts';
import { until } from './harness.ts';

const silent: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

test('what a clock that is ahead takes for expired is believed once the clock was set, though nobody says it again', async () => {
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
      hasRoot: () => true,
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
