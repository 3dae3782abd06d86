/**
 * A process that writes to a store until it is killed, and says on its output what was acknowledged. Run by
 * worker.test.ts.
 */
import { openSqliteStore } from '#server/store/sqlite/open.ts';
import { enrolFleet, id, line, report } from './records.ts';

const store = await openSqliteStore(process.argv[2]!);
await enrolFleet(store, ['gw-1']);
for (let seq = 1; ; seq += 1) {
  await Promise.all([
    store.saveReports([report('gw-1', seq, { audit: [line('reported', { device: 'gw-1', seq })] })]),
    store.setMeta('seq', String(seq)),
  ]);
  const { reportSeq } = (await store.getDevice(id('gw-1')))!;
  process.stdout.write(`${reportSeq}\n`);
}
