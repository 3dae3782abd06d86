/**
 * What aedes leaves open to anyone who can open a socket: packets of up to 256 MiB are gathered in memory before
 * anything looks at them, also before login, and nothing counts packets or connections.
 */
import type { Socket } from 'node:net';
import type { Client } from 'aedes';
import { addressGroup, fullBucket, type Rate, take } from '#shared/token-bucket.ts';

/** A CONNECT: id, user name, a login of some 400 bytes, a will. */
const PACKET_BYTES_MAX_BEFORE_LOGIN = 4 * 1024;
const PACKET_BYTES_MAX = 256 * 1024;

/**
 * Internals of the pinned aedes and mqtt-packet. A test with a raw socket fails when they change, and so does
 * `guardPackets`.
 */
type Parser = {
  packet: { length: number };
  _parseLength(): boolean;
  _emitError(error: Error): boolean;
};
type Internals = { _parser: Parser; connackSent: boolean };

/**
 * Ends the connection as soon as a packet's length is known to be too long, before its bytes are gathered, or when
 * packets of any kind come faster than `rate` for longer than its burst.
 */
export const guardPackets = (client: Client, rate: Rate, refused: (why: string) => void): void => {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- checked in the next statement
  const internals = client as unknown as Internals;
  const { _parser: parser } = internals;
  if (typeof parser?._parseLength !== 'function' || typeof parser._emitError !== 'function') {
    throw new TypeError('this version of mqtt-packet cannot be guarded');
  }
  const parseLength = parser._parseLength.bind(parser);
  const bucket = fullBucket(rate, performance.now());
  parser._parseLength = () => {
    if (!parseLength()) return false;
    const limit = internals.connackSent ? PACKET_BYTES_MAX : PACKET_BYTES_MAX_BEFORE_LOGIN;
    if (parser.packet.length > limit) {
      refused('packet-too-long');
      return parser._emitError(new Error(`a packet of ${parser.packet.length} bytes; at most ${limit} are read`));
    }
    if (take(bucket, rate, performance.now()) < 0) {
      refused('packet-flood');
      return parser._emitError(new Error('packets come too fast'));
    }
    return true;
  };
};

/** Counts connections, in all and by address, from the moment that the socket is open. */
export const countConnections = (limits: { max: number; perAddressMax: number }) => {
  const byAddress = new Map<string, number>();
  let all = 0;
  return {
    /** Says why there is no room, or counts the socket until it closes. */
    enter(socket: Socket): 'too-many-connections' | 'too-many-connections-of-address' | undefined {
      const group = addressGroup(socket.remoteAddress ?? '');
      const open = byAddress.get(group) ?? 0;
      if (all >= limits.max) return 'too-many-connections';
      if (limits.perAddressMax > 0 && open >= limits.perAddressMax) return 'too-many-connections-of-address';
      all += 1;
      byAddress.set(group, open + 1);
      socket.once('close', () => {
        all -= 1;
        const left = (byAddress.get(group) ?? 1) - 1;
        if (left > 0) byAddress.set(group, left);
        else byAddress.delete(group);
      });
      return undefined;
    },
  };
};
