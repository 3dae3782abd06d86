/** What the server acknowledges, it has: the report, and every receipt in it. */
import type { Id } from '#shared/ids.ts';
import { type Ack, StateReport } from '#shared/messages.ts';
import type { UpChannel } from '#shared/topics.ts';
import type { Rows } from './rows.ts';
import type { Witness } from './witness.ts';
import type { World } from './world.ts';

export type Reports = {
  arrived(device: Id, channel: UpChannel, payload: Uint8Array): void;
  acknowledged(device: Id, ack: Ack): void;
};

export const watchReports = (world: World, rows: Rows, witness: Witness): Reports => {
  const carried = new Map<string, { boot: Id; receipts: string[] }>();
  return {
    arrived: (device, channel, payload) => {
      if (channel !== 'state') return;
      const { boot, seq, receipts } = StateReport.parse(JSON.parse(Buffer.from(payload).toString()));
      if (receipts.length > 0)
        carried.set(`${device} ${seq}`, { boot, receipts: receipts.map((signed) => signed.payload) });
    },
    acknowledged: (device, { seq }) => {
      const record = rows.device(device);
      if ((record?.reportSeq ?? 0) < seq) world.violate(`report ${seq} of ${device} is acknowledged and not committed`);
      const report = carried.get(`${device} ${seq}`);
      // A device that has started again says again what it still knows, and hears no acknowledgement of before.
      if (report === undefined || report.boot !== record?.boot) return;
      const lost = report.receipts.find((receipt) => !witness.receipts.has(receipt));
      if (lost !== undefined)
        world.violate(`report ${seq} of ${device} is acknowledged, and the server does not have its receipt: ${lost}`);
    },
  };
};
