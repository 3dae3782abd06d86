import { expect, onTestFinished, test } from 'vitest';
import { type EventOf, openMachine } from '#agent/deployment/machine.ts';
import type { Effect, InstallState } from '#agent/domain/install-state.ts';
import type { Memory } from '#agent/domain/memory.ts';
import type { Log } from '#agent/log.ts';
import { freshMemory, offerOf } from '../domain/model.ts';
import { until } from '../harness.ts';

const silent: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

/** A machine whose journal keeps its records in memory, and may be full; `perform` is the test's. */
const open = (
  perform: (effect: Effect, state: InstallState, signal: AbortSignal) => Promise<EventOf | undefined>,
  memory: Memory = freshMemory(),
) => {
  const journal = { records: [] as Memory[], full: false };
  const machine = openMachine({
    memory,
    journal: {
      append: async (record) => {
        if (journal.full) throw Object.assign(new Error('no space left'), { code: 'ENOSPC' });
        journal.records.push(record);
      },
    },
    now: () => 1_000,
    log: silent,
    perform,
    failureOf: (_effect, error) => ({ kind: 'failed', error: { code: 'PRECONDITION', message: String(error) } }),
    recorded: async () => undefined,
  });
  onTestFinished(() => machine.stop());
  return { machine, journal };
};
const offered: EventOf = { kind: 'offered', offer: offerOf(1) };

test('a state is recorded before anything is done about it; with a full disk nothing is done until it can be', async () => {
  const done: [Effect, number][] = [];
  const { machine, journal } = open(async (effect) => {
    done.push([effect, journal.records.length]);
    return undefined;
  });
  journal.full = true;
  machine.send(offered);
  await new Promise((resolve) => setImmediate(resolve));
  expect([machine.memory().install.state, done]).toEqual(['idle', []]);
  journal.full = false;
  await until('it is recorded', () => done.length > 0);
  expect(done).toEqual([['check-manifest', 1]]);
  expect(journal.records.map(({ install }) => install.state)).toEqual(['accepted']);
});

test("18: disk full, download, journal, log: fails clean; a log that can't be written is not fatal (an agent that cannot record its restart boots its application all the same, and nothing else goes on until it can)", async () => {
  const resumed = async (install: InstallState) => {
    const done: Effect[] = [];
    const { machine, journal } = open(
      async (effect) => {
        done.push(effect);
        return undefined;
      },
      { ...freshMemory(), install },
    );
    journal.full = true;
    machine.send({ kind: 'restarted' });
    await until('something is done', () => done.length > 0);
    const unrecorded = [...done];
    journal.full = false;
    await until('it is recorded', () => journal.records.length > 0);
    const [{ state }, at] = [install, journal.records[0]!.install.state];
    expect(at).toBe(state);
    await until('everything is done', () => state === 'idle' || done.length > unrecorded.length);
    return [unrecorded, done.slice(unrecorded.length)];
  };
  const journey = { offer: offerOf(1), since: 0, transitions: 3, slot: 'b' as const };
  const error = { code: 'TRIAL_CRASHED' as const, message: '' };
  expect(await resumed({ state: 'idle' })).toEqual([['boot'], []]);
  expect(await resumed({ state: 'fetching', ...journey })).toEqual([['boot'], ['fetch']]);
  // What a boot selector names is at worst a trial, counted as always; the slots are asked once there is a record.
  expect(await resumed({ state: 'trial', ...journey })).toEqual([['boot'], ['inspect']]);
  // That a trial failed is known: it does not boot again.
  expect(await resumed({ state: 'reverting', ...journey, error })).toEqual([['revert'], ['revert']]);
});

test('a new state ends what was being done for the old one, and waits until that has really ended', async () => {
  const story: string[] = [];
  const { machine } = open(async (effect, state, signal) => {
    story.push(`${effect} begins`);
    if (effect !== 'check-manifest') return undefined;
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
    await new Promise((resolve) => setImmediate(resolve));
    story.push(`${effect} ends in ${state.state}`);
    // Too late: no one wants to know any more.
    return { kind: 'manifest-checked', slot: 'b' };
  });
  machine.send(offered);
  machine.send({ kind: 'withdrawn', seq: 2 });
  await until('it is withdrawn', () => story.length === 3);
  expect(story).toEqual(['check-manifest begins', 'check-manifest ends in accepted', 'sign-receipt begins']);
  expect(machine.memory()).toMatchObject({ install: { state: 'withdrawn' }, desiredSeq: 2 });
});

test('what an effect keeps is durable before it goes on; one that is not wanted any more does not wait for that', async () => {
  const hookRuns = [{ hook: 0, runs: 1, good: false }];
  const kept: [boolean, number][] = [];
  const { machine, journal } = open(async (effect, _, signal) => {
    if (effect !== 'check-manifest') return undefined;
    const keep = () => machine.keep((memory) => ({ ...memory, hookRuns }), signal);
    kept.push([await keep(), journal.records.length]);
    // This has its turn first, and waits for the end of this effect.
    machine.send({ kind: 'withdrawn', seq: 2 });
    kept.push([await keep(), journal.records.length]);
    return undefined;
  });
  machine.send(offered);
  await until('it is withdrawn', () => machine.memory().install.state === 'withdrawn');
  expect(kept).toEqual([
    [true, 2],
    [false, 2],
  ]);
  expect(journal.records[1]).toMatchObject({ install: { state: 'accepted' }, hookRuns });
});

test('an effect that throws fails the deployment, not the agent', async () => {
  const { machine } = open(async (effect) => {
    if (effect === 'check-manifest') throw new Error('a bug');
    return undefined;
  });
  machine.send(offered);
  await until('it has failed', () => machine.memory().install.state === 'failed');
  expect(machine.memory().install).toMatchObject({ error: { code: 'PRECONDITION', message: 'Error: a bug' } });
});

test('numbers of reports only grow, whatever crashes, and few of them cost a write', async () => {
  const first = open(async () => undefined, { ...freshMemory(), reportSeq: 5_000 });
  const numbers = [];
  for (let count = 0; count < 1_500; count += 1) numbers.push(await first.machine.nextSeq());
  expect(numbers).toEqual(Array.from({ length: 1_500 }, (_, index) => 5_001 + index));
  expect(first.journal.records.length).toBe(2);
  // Killed here: the next agent begins above everything that may have been used.
  const second = open(async () => undefined, first.journal.records.at(-1));
  expect(await second.machine.nextSeq()).toBeGreaterThan(numbers.at(-1)!);
});

test('a report does not wait for a journal that cannot be written; a receipt does', async () => {
  const { machine, journal } = open(async () => undefined, { ...freshMemory(), reportSeq: 5_000 });
  journal.full = true;
  machine.send(offered);
  expect([await machine.nextSeq('report'), await machine.nextSeq('report')]).toEqual([5_001, 5_002]);
  let receipt: number | undefined;
  void machine.nextSeq().then((seq) => (receipt = seq));
  expect(await machine.nextSeq('report')).toBe(5_004);
  expect([receipt, journal.records]).toEqual([undefined, []]);
  journal.full = false;
  await until('the receipt has its number', () => receipt !== undefined);
  expect(receipt).toBe(5_003);
  expect(journal.records.at(-1)!.reportSeq).toBeGreaterThanOrEqual(5_004);
});

test('what has failed on trial does not run on because the journal cannot be written, and what an unrecorded revert comes to is no outcome', async () => {
  const done: Effect[] = [];
  const install: InstallState = { state: 'trial', offer: offerOf(1), since: 0, transitions: 3, slot: 'b' };
  const { machine, journal } = open(
    async (effect) => {
      done.push(effect);
      if (effect !== 'revert') return undefined;
      if (!journal.full) return { kind: 'booted-other', why: '' };
      return { kind: 'failed', error: { code: 'REVERT_FAILED', message: '' } };
    },
    { ...freshMemory(), install },
  );
  journal.full = true;
  machine.send({ kind: 'failed', error: { code: 'SELFTEST_FAILED', message: '' } });
  await until('what is urgent is done', () => done.length > 0);
  expect([done, journal.records]).toEqual([['revert'], []]);
  journal.full = false;
  await until('it is reverted for good', () => machine.memory().install.state === 'verifying-revert');
  expect(done).toEqual(['revert', 'revert', 'verify-revert']);
  expect(machine.memory().install).toMatchObject({ error: { code: 'SELFTEST_FAILED' } });
});
