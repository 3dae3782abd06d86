import { expect, onTestFinished, test } from 'vitest';
import { openMachine } from '#agent/deployment/machine.ts';
import type { InstallState } from '#agent/domain/install-state.ts';
import type { Log } from '#agent/log.ts';
import { openReporter } from '#agent/report/report.ts';
import { Id } from '#shared/ids.ts';
import { Ack, type Signed, StateReport } from '#shared/messages.ts';
import { freshMemory, offerOf, receipt as unsigned } from '../domain/model.ts';
import { until } from '../harness.ts';

const silent: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const BOOT = Id.parse('boot-1');
const receiptOf = (attempt: number): Signed => ({ ...unsigned, payload: JSON.stringify({ attempt }) });

/** A device that says what became of its deployment; the receipt of each attempt says which. */
const open = (install: InstallState) => {
  const reports: StateReport[] = [];
  const machine = openMachine({
    memory: { ...freshMemory(), install },
    journal: { append: async () => undefined },
    now: () => 1_000,
    log: silent,
    perform: async (effect, state) => {
      if (effect === 'clean-up') return { kind: 'cleaned' };
      if (effect !== 'sign-receipt' || state.state === 'idle') return undefined;
      return { kind: 'signed', receipt: receiptOf(state.offer.install.attempt ?? 1) };
    },
    failureOf: () => undefined,
    recorded: async () => undefined,
  });
  const heard = { acknowledged: 0 };
  const reporter = openReporter({
    machine: {
      ...machine,
      send: (event) => {
        heard.acknowledged += 1;
        machine.send(event);
      },
    },
    link: () => ({
      connected: () => true,
      publish: (channel, message) => {
        if (channel === 'state') reports.push(StateReport.parse(message));
        return true;
      },
    }),
    boot: BOOT,
    agent: 'test',
    running: async () => null,
    healthy: async () => true,
    attributes: () => ({}),
    progress: () => null,
    now: () => 1_000,
    heartbeatMs: 60_000,
    log: silent,
  });
  onTestFinished(async () => {
    reporter.stop();
    await machine.stop();
  });
  /** The newest report, made after something has changed. */
  const says = async (): Promise<StateReport> => {
    const before = reports.length;
    reporter.changed();
    await until('it reports', () => reports.length > before);
    return reports.at(-1)!;
  };
  return { machine, reporter, says, heard };
};

test('a late acknowledgement of an earlier attempt is none of the receipt that waits now', async () => {
  const first = offerOf(1);
  const { machine, reporter, says, heard } = open({
    state: 'withdrawn',
    offer: first,
    since: 1_000,
    transitions: 2,
    receipt: receiptOf(1),
  });
  const is = () => machine.memory().install;
  const [one, two] = [await says(), await says()];
  expect([one.receipts, two.receipts]).toEqual([[receiptOf(1)], [receiptOf(1)]]);
  reporter.ack({ boot: BOOT, seq: two.seq });
  await until('the first attempt is over', () => is().state === 'idle');

  // The same deployment, offered again; it fails, and says so with a receipt of its own.
  machine.send({ kind: 'offered', offer: { ...first, seq: 2, install: { ...first.install, attempt: 2 } } });
  machine.send({ kind: 'failed', error: { code: 'NO_SPACE', message: 'it is full' } });
  const waiting = (): Signed | null | undefined => {
    const now = is();
    return 'receipt' in now ? now.receipt : undefined;
  };
  await until('the second receipt waits', () => waiting()?.payload === receiptOf(2).payload);
  reporter.ack({ boot: BOOT, seq: one.seq });
  expect(heard.acknowledged).toBe(1);

  const three = await says();
  expect(three.receipts).toEqual([receiptOf(2)]);
  reporter.ack({ boot: BOOT, seq: three.seq });
  await until('the second attempt is over', () => is().state === 'idle');
  expect(machine.memory().last).toMatchObject({ outcome: 'failed', attempt: 2 });
});

test('a device that was put back to an older state goes on above what the server has heard of it, and loses no receipt', async () => {
  const install = {
    state: 'withdrawn',
    offer: offerOf(1),
    since: 1_000,
    transitions: 2,
    receipt: receiptOf(1),
  } as const;
  const { machine, reporter, says, heard } = open(install);
  const clockIn2100 = Date.UTC(2100);
  const [one, two] = [await says(), await says()];
  reporter.ack({ boot: BOOT, seq: one.seq, highest: clockIn2100 });
  const taken = await says();
  reporter.ack({ boot: BOOT, seq: two.seq, highest: clockIn2100 });
  expect([taken.receipts, heard.acknowledged]).toEqual([[receiptOf(1)], 0]);
  expect(taken.seq).toBeGreaterThan(clockIn2100);

  // The same message twice, of which the second was seen, is nothing of that kind.
  reporter.ack({ boot: BOOT, seq: taken.seq, highest: taken.seq });
  await until('its deployment is over', () => machine.memory().install.state === 'idle');
});

test('no one can use up the numbers of a device', () => {
  const told = (highest: number) => Ack.safeParse({ boot: BOOT, seq: 1, highest }).success;
  expect([told(Date.UTC(9999)), told(Number.MAX_SAFE_INTEGER - 1)]).toEqual([true, false]);
});
