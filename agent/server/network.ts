/**
 * Why the server cannot be reached: is it this device's network, or the server? A host that answers, be it by refusing
 * a connection, shows that packets come and go. Where addresses to try are configured, one of them (or the server's own
 * host) must answer; without any, the gateway must at least be there.
 */
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { type Address, parseAddress } from '../config/address.ts';
import type { Contact } from '../domain/contact.ts';
import { errorCode } from '../process/system-error.ts';
import { type ProxyFor, targetOf } from './proxy.ts';

export type NetworkOptions = {
  serverUrl: string;
  /** `host:port`, for example of a public resolver, of a time server, of another site. */
  probes: readonly string[];
  /** Through a proxy nothing is known of the server's own host: it is the proxy that answers or does not. */
  proxyFor?: ProxyFor;
  /** Tables of Linux; other files are for tests. */
  routes?: { v4: string; v6: string; neighbours: string };
};

type Unreached = Extract<Contact, { reach: 'network' | 'none' }>;

const PROBE_MS_MAX = 3_000;
/** Any port makes the kernel look for the gateway; this one is rarely open, and a refusal is an answer. */
const DISCARD_PORT = 9;
const KERNEL = { v4: '/proc/net/route', v6: '/proc/net/ipv6_route', neighbours: '/proc/net/arp' };
/** Of RTF_UP, RTF_GATEWAY and ATF_COM. */
const UP_AND_GATEWAY = 0x3;
const COMPLETE = 0x2;

/** Takes a few seconds when no one answers; never rejects. */
export const examineNetwork = async (options: NetworkOptions, signal: AbortSignal): Promise<Unreached> => {
  const tables = options.routes ?? KERNEL;
  const server = serverAddress(options);
  const probes = options.probes.flatMap((probe) => parseAddress(probe) ?? []);
  const addresses: Asked[] = [server, ...probes.map((probe) => ({ ...probe, name: probe.host }))];
  const answers = await Promise.all(
    addresses.map(async (address) => ({ address, answer: await ask(address, signal) })),
  );
  const heard = answers.find(({ answer }) => answer.ok);
  if (heard !== undefined) return { reach: 'network', why: `${heard.address.name} ${heard.answer.word}` };
  const silent = answers.map(({ address, answer }) => `${address.name}: ${answer.word}`).join(', ');
  const gateway = await findGateway(tables);
  if (gateway === null) return { reach: 'none', why: `there is no default route (${silent})` };
  const there = gateway.address === null || (await gatewayAnswers(gateway.address, tables.neighbours, signal));
  if (!there) return { reach: 'none', why: `the gateway ${gateway.address} does not answer (${silent})` };
  if (options.probes.length > 0) return { reach: 'none', why: `no one answers beyond the gateway (${silent})` };
  const gatewayWords = gateway.address === null ? 'there is a default route' : `the gateway ${gateway.address} answers`;
  return { reach: 'network', why: `${gatewayWords} (${silent})` };
};

/** `name` is for sentences. */
type Asked = Address & { name: string };

const serverAddress = ({ serverUrl, proxyFor }: NetworkOptions): Asked => {
  const target = targetOf(new URL(serverUrl));
  const proxy = proxyFor?.(target) ?? null;
  if (proxy === null) return { ...target, name: target.host };
  return { host: proxy.host, port: proxy.port, name: `the proxy ${proxy.host}` };
};

/** `ok`: packets come back. `word` is for sentences. */
const ask = async ({ host, port }: Address, signal: AbortSignal): Promise<{ ok: boolean; word: string }> => {
  const clock = AbortSignal.timeout(PROBE_MS_MAX);
  try {
    await connectOnce(host, port, AbortSignal.any([signal, clock]));
    return { ok: true, word: 'answers' };
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ECONNREFUSED' || code === 'ECONNRESET') return { ok: true, word: 'refuses connections' };
    return { ok: false, word: clock.aborted ? 'no answer' : code || 'no answer' };
  }
};

/**
 * `address` is null when there is a default route that needs none (a tunnel), or only one of IPv6. Null: there is none.
 */
const findGateway = async (tables: { v4: string; v6: string }): Promise<{ address: string | null } | null> => {
  const lines = await linesOf(tables.v4);
  for (const line of lines.slice(1)) {
    const [device, destination, gateway, flags, , , , mask] = line.trim().split(/\s+/);
    if (device === undefined || destination !== '00000000' || mask !== '00000000') continue;
    if ((Number.parseInt(flags ?? '0', 16) & UP_AND_GATEWAY) !== UP_AND_GATEWAY) return { address: null };
    return { address: dotted(gateway ?? '00000000') };
  }
  const defaults = (await linesOf(tables.v6)).map((line) => line.trim().split(/\s+/));
  const through = defaults.some(
    ([destination, prefix, , , , , , , , device]) =>
      destination === '0'.repeat(32) && prefix === '00' && device !== undefined && device !== 'lo',
  );
  // Without /proc nothing is known, and so nothing is held against the network.
  if (lines.length === 0 || through) return { address: null };
  return null;
};

const linesOf = async (file: string): Promise<string[]> =>
  (await readFile(file, 'utf8').catch(() => '')).split('\n').filter((line) => line.trim() !== '');

/** The kernel prints the four bytes in its own order, which is the network's only on big-endian machines. */
const dotted = (hex: string): string => {
  const bytes = hex.match(/../g)?.map((byte) => Number.parseInt(byte, 16)) ?? [];
  return (new Uint8Array(new Uint16Array([1]).buffer)[0] === 1 ? bytes.reverse() : bytes).join('.');
};

/** It need not accept anything: the kernel's table says whether its hardware was found. */
const gatewayAnswers = async (address: string, neighbours: string, signal: AbortSignal): Promise<boolean> => {
  if ((await ask({ host: address, port: DISCARD_PORT }, signal)).ok) return true;
  const entry = (await linesOf(neighbours)).map((line) => line.trim().split(/\s+/)).find(([ip]) => ip === address);
  return entry !== undefined && (Number.parseInt(entry[2] ?? '0', 16) & COMPLETE) !== 0;
};

/**
 * Resolves when someone accepts the connection, which is closed at once. Rejects with the system's error, or when
 * aborted.
 */
export const connectOnce = async (host: string, port: number, signal: AbortSignal): Promise<void> => {
  const { promise, resolve: accepted, reject } = Promise.withResolvers<void>();
  const socket = connect({ host, port, signal });
  socket.once('connect', () => accepted());
  socket.on('error', reject);
  try {
    await promise;
  } finally {
    socket.destroy();
  }
};
