/** A server with one device: what it was told survives the device's deaths. */
import type { Http } from '#agent/server/http.ts';
import { Receipt } from '#shared/deployment.ts';
import type { Id } from '#shared/ids.ts';
import { type Ack, type Desired, StateReport } from '#shared/messages.ts';
import type { Time } from '#test/simulation/time.ts';
import type { Release } from './releases.ts';

export type Server = ReturnType<typeof openServer>;
const LATENCY_MS = 20;

export const openServer = (time: Time, desired: Desired, release: Release) => {
  /** Distinct signed receipts, as they came. */
  let receipts: string[] = [];
  let last: StateReport | undefined;

  const answer = (path: string, headers: Record<string, string>) => {
    const bytes = release.objects.get(path.split('/').at(-1)!);
    const [, from = '0', to] = /^bytes=(\d+)-(\d*)$/.exec(headers['range'] ?? '') ?? [];
    const total = bytes?.length ?? 0;
    const end = to === undefined || to === '' ? total : Math.min(total, Number(to) + 1);
    const body = (bytes ?? Buffer.alloc(0)).subarray(Number(from), end);
    const fields: Record<string, string> = {
      etag: `"${path.split('/').at(-1)!}"`,
      'content-length': String(body.length),
      'content-range': `bytes ${from}-${end - 1}/${total}`,
    };
    const isRange = headers['range'] !== undefined;
    return {
      status: bytes === undefined ? 404 : isRange ? 206 : 200,
      headers: { get: (name: string) => (name === 'content-range' && !isRange ? null : (fields[name] ?? null)) },
      body: Object.assign(piecesOf(body), { cancel: async () => undefined }),
    };
  };
  const http: Pick<Http, 'get' | 'getJson' | 'distrustCache'> = {
    distrustCache: () => undefined,
    get: async (path, headers) => {
      await time.sleep(LATENCY_MS);
      return answer(path, headers);
    },
    getJson: async (path, schema) => {
      await time.sleep(LATENCY_MS);
      if (path !== '/device/v1/desired')
        return { ok: false, answered: true, code: 'not-found', message: `${path} is not there` };
      return { ok: true, value: schema.parse({ desired, serverTime: time.now() }) };
    },
  };
  return {
    http,
    receipts: () => receipts.map((payload) => Receipt.parse(JSON.parse(payload))),
    /** The latest result of the device. */
    last: () => last,
    /** A device that speaks MQTT. */
    connect: (boot: Id, on: { connected(): void; desired(desired: Desired): void; ack(ack: Ack): void }) => {
      let connected = false;
      void time.sleep(LATENCY_MS).then(() => {
        connected = true;
        on.connected();
        on.desired(desired);
      });
      const receive = async (message: object): Promise<void> => {
        const report = StateReport.parse(message);
        await time.sleep(LATENCY_MS);
        last = report;
        for (const { payload } of report.receipts) if (!receipts.includes(payload)) receipts = [...receipts, payload];
        await time.sleep(LATENCY_MS);
        on.ack({ boot, seq: report.seq });
      };
      return {
        connected: () => connected,
        publish: (channel: string, message: object): boolean => {
          if (connected && channel === 'state') void receive(message);
          return connected;
        },
      };
    },
    save: () => {
      const [savedReceipts, savedLast] = [receipts, last];
      return () => {
        [receipts, last] = [savedReceipts, savedLast];
      };
    },
  };
};

/** In two pieces. */
async function* piecesOf(bytes: Buffer): AsyncGenerator<Uint8Array> {
  const half = Math.ceil(bytes.length / 2);
  if (half > 0) yield bytes.subarray(0, half);
  if (half < bytes.length) yield bytes.subarray(half);
}
