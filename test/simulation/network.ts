/**
 * Connections between devices and the one server, with everything that can happen to a message on the way. Between
 * faults it is as TCP is: what is lost ends its connection.
 */
import type { Id } from '#shared/ids.ts';
import { Ack, Desired } from '#shared/messages.ts';
import type { UpChannel } from '#shared/topics.ts';
import type { Process } from './time.ts';
import type { World } from './world.ts';

type On = {
  connected(): void;
  disconnected(): void;
  desired(desired: Desired): void;
  ack(ack: Ack): void;
};
type Answer = { desired: Desired | null; serverTime: number };
/** `confirm`: whether an offer still stands, right before it is activated. */
export type AskedFor = 'news' | 'confirm';
/** What the server shows to the network. */
type Endpoint = {
  process: Process;
  message(device: Id, channel: UpChannel, payload: Uint8Array): void;
  presence(device: Id, online: boolean): void;
  /** False when the device is not let in. */
  admits(device: Id): boolean;
  ask(device: Id, why: AskedFor): Promise<Answer>;
};
export type Link = {
  open(on: On): void;
  connected(): boolean;
  publish(channel: UpChannel, message: object): boolean;
};
export type Network = {
  link(device: Id, process: Process): Link;
  /** `GET /device/v1/desired`; undefined when no answer came. */
  ask(device: Id, process: Process, why: AskedFor): Promise<Answer | undefined>;
  listen(endpoint: Endpoint | undefined): void;
  /** From the server to a device that is connected. */
  push(device: Id, what: { desired: Desired } | { ack: Ack }): void;
  /** Ends the connection of this device, or all. */
  drop(device?: Id): void;
  /** Cut off until then. */
  partition(device: Id, ms: number): void;
  heal(): void;
};

type Connection = { device: Id; process: Process; endpoint: Endpoint; on: On; ended: boolean; late: (() => void)[] };
const ASK_MS_MAX = 10_000;

export const openNetwork = (world: World): Network => {
  const { time } = world;
  const random = world.random('network');
  const connections = new Map<Id, Connection>();
  const cutOffUntil = new Map<Id, number>();
  let endpoint: Endpoint | undefined;

  /** A number that is used again would be taken for seen: what it carries would be acknowledged and lost. */
  const used = new Map<string, string>();
  const checkNumber = (device: Id, text: string): void => {
    const number = `${device} ${/"seq":(\d+)/.exec(text)?.[1]}`;
    if (used.has(number) && used.get(number) !== text)
      world.violate(`${device} uses the number of a report again: ${number}`);
    used.set(number, text);
  };
  const isCutOff = (device: Id): boolean => (cutOffUntil.get(device) ?? 0) > time.now();
  const delayMs = (): number => {
    if (!world.has('delay')) return random.between(5, 50);
    return world.strikes('delay', world.random('delay'), 0.05)
      ? random.between(1_000, 20_000)
      : random.between(5, 1_500);
  };
  const end = (connection: Connection): void => {
    if (connection.ended) return;
    connection.ended = true;
    if (connections.get(connection.device) === connection) connections.delete(connection.device);
    if (!connection.process.dead) time.within(connection.process, () => connection.on.disconnected());
    const { endpoint: server, device } = connection;
    if (!server.process.dead) time.within(server.process, () => server.presence(device, false));
  };
  /** One message on a connection: late, twice, or never, in which case the connection ends soon. */
  const carry = (connection: Connection, deliver: () => void): void => {
    if (world.strikes('loss', world.random('loss'), 0.02)) {
      time.at(random.between(1_000, 45_000), undefined, () => end(connection));
      return;
    }
    const copies = world.strikes('repeat', world.random('repeat'), 0.05) ? 2 : 1;
    for (let copy = 0; copy < copies; copy += 1)
      time.at(delayMs(), undefined, () => {
        if (!connection.ended) deliver();
      });
  };
  const late = world.random('late-ack');

  const connect = (device: Id, process: Process, on: On): void => {
    const server = endpoint;
    if (process.dead || server === undefined || server.process.dead || isCutOff(device) || !server.admits(device)) {
      time.at(random.between(2_000, 15_000), process, () => connect(device, process, on));
      return;
    }
    const connection: Connection = {
      device,
      process,
      endpoint: server,
      ended: false,
      late: [],
      on: {
        ...on,
        disconnected: () => {
          on.disconnected();
          time.at(random.between(1_000, 10_000), process, () => connect(device, process, on));
        },
      },
    };
    const old = connections.get(device);
    if (old !== undefined) end(old);
    connections.set(device, connection);
    time.within(server.process, () => server.presence(device, true));
    time.within(process, () => on.connected());
  };

  return {
    link: (device, process) => {
      const mine = (): Connection | undefined => {
        const connection = connections.get(device);
        return connection?.process === process && !connection.ended ? connection : undefined;
      };
      return {
        open: (on) => void time.at(random.between(100, 3_000), process, () => connect(device, process, on)),
        connected: () => mine() !== undefined,
        publish: (channel, message) => {
          const connection = mine();
          if (connection === undefined || process.dead) return false;
          const text = JSON.stringify(message);
          if (channel === 'state') checkNumber(device, text);
          const bytes = Buffer.from(text);
          carry(connection, () => {
            const { endpoint: server } = connection;
            if (!server.process.dead) time.within(server.process, () => server.message(device, channel, bytes));
          });
          if (channel === 'state' && !text.includes('"receipts":[]'))
            for (const deliver of connection.late.splice(0)) carry(connection, deliver);
          return true;
        },
      };
    },
    ask: (device, process, why) =>
      new Promise((resolve) => {
        const give = (answer: Answer | undefined): void => {
          if (!process.dead) time.within(process, () => resolve(answer));
        };
        time.at(ASK_MS_MAX, process, () => give(undefined));
        if (isCutOff(device) || world.strikes('loss', world.random('loss'), 0.02)) return;
        time.at(delayMs(), undefined, () => {
          const server = endpoint;
          if (server === undefined || server.process.dead || !server.admits(device)) return;
          time.within(server.process, () => {
            void server.ask(device, why).then((answer) => {
              if (server.process.dead || isCutOff(device)) return;
              time.at(delayMs(), process, () => give(answer));
            });
          });
        });
      }),
    listen: (server) => {
      endpoint = server;
      if (server === undefined) for (const connection of connections.values()) end(connection);
    },
    push: (device, what) => {
      const connection = connections.get(device);
      if (connection === undefined) return;
      // What arrives was parsed from bytes.
      const text = JSON.stringify(what);
      const deliver = (): void => {
        if (connection.process.dead) return;
        const parsed: { desired?: unknown; ack?: unknown } = JSON.parse(text);
        time.within(connection.process, () => {
          if (parsed.desired !== undefined) connection.on.desired(Desired.parse(parsed.desired));
          if (parsed.ack !== undefined) connection.on.ack(Ack.parse(parsed.ack));
        });
      };
      if ('ack' in what && world.strikes('late-ack', late, 0.5)) connection.late.push(deliver);
      else carry(connection, deliver);
    },
    drop: (device) => {
      for (const connection of connections.values())
        if (device === undefined || connection.device === device) end(connection);
    },
    partition: (device, ms) => {
      world.tell(`${device} is cut off for ${Math.round(ms / 1000)} s`);
      cutOffUntil.set(device, time.now() + ms);
      const connection = connections.get(device);
      if (connection !== undefined) end(connection);
    },
    heal: () => cutOffUntil.clear(),
  };
};
