import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { parseAddress } from '#agent/config/address.ts';
import { watchContact } from '#agent/server/contact.ts';
import { examineNetwork } from '#agent/server/network.ts';

const never = new AbortController().signal;
/**
 * Of the documentation's range, which is routed nowhere: asking ends with an error, or with nothing in three seconds.
 */
const NOBODY = 'http://unresolvable.invalid';
const NO_ROUTE = /^there is no default route \(unresolvable.invalid: (E\w+|no answer)\)$/;

/** The kernel's tables, as a device would have them. */
const tables = async (more: { v4?: string; v6?: string; neighbours?: string } = {}) => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-network-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const files = { v4: join(dir, 'route'), v6: join(dir, 'ipv6_route'), neighbours: join(dir, 'arp') };
  await writeFile(files.v4, more.v4 ?? HEAD);
  await writeFile(files.v6, more.v6 ?? '');
  await writeFile(files.neighbours, more.neighbours ?? '');
  return files;
};
const HEAD = 'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n';
const LAN = 'eth0\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n';
/** 127.0.0.77: on every Linux it refuses, which is an answer. */
const GATEWAY_THERE = 'eth0\t00000000\t4D00007F\t0003\t0\t0\t0\t00000000\t0\t0\t0\n';
const TUNNEL = 'tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n';
const littleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

const listen = async (): Promise<number> => {
  const server = createServer((socket) => socket.destroy());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const address = server.address();
  return typeof address === 'object' ? address!.port : 0;
};

test('a server whose host refuses connections is down; the network works', async () => {
  expect(await examineNetwork({ serverUrl: 'http://127.0.0.1:1', probes: [] }, never)).toEqual({
    reach: 'network',
    why: '127.0.0.1 refuses connections',
  });
});

test('any configured address that answers shows that the network works', async () => {
  const probes = ['unresolvable.invalid:80', `127.0.0.1:${await listen()}`];
  expect(await examineNetwork({ serverUrl: NOBODY, probes }, never)).toEqual({
    reach: 'network',
    why: '127.0.0.1 answers',
  });
});

test('a device without a default route has a broken network', async () => {
  const found = await examineNetwork(
    { serverUrl: NOBODY, probes: [], routes: await tables({ v4: HEAD + LAN }) },
    never,
  );
  expect(found).toMatchObject({ reach: 'none', why: NO_ROUTE });
});

test('without addresses to try, a gateway that is there is enough; with some that are silent it is not', async () => {
  if (!littleEndian) return;
  const routes = await tables({ v4: HEAD + LAN + GATEWAY_THERE });
  expect(await examineNetwork({ serverUrl: NOBODY, probes: [], routes }, never)).toMatchObject({
    reach: 'network',
    why: /^the gateway 127.0.0.77 answers/,
  });
  const probes = ['unresolvable.invalid:80'];
  expect(await examineNetwork({ serverUrl: NOBODY, probes, routes }, never)).toMatchObject({
    reach: 'none',
    why: /^no one answers beyond the gateway/,
  });
});

test('a gateway that refuses nothing and accepts nothing is there when its hardware was found', async () => {
  if (!littleEndian) return;
  // No one can connect to all hosts at once: asking fails immediately.
  const v4 = `${HEAD}eth0\t00000000\tFFFFFFFF\t0003\t0\t0\t0\t00000000\t0\t0\t0\n`;
  const arp = (flags: string) =>
    `IP address HW type Flags HW address Mask Device\n255.255.255.255 0x1 ${flags} 02:00:00:00:00:01 * eth0\n`;
  const ask = async (neighbours: string) =>
    examineNetwork({ serverUrl: NOBODY, probes: [], routes: await tables({ v4, neighbours }) }, never);
  expect(await ask(arp('0x2'))).toMatchObject({ reach: 'network' });
  expect(await ask(arp('0x0'))).toMatchObject({ reach: 'none', why: /^the gateway 255.255.255.255 does not answer/ });
  expect(await ask('')).toMatchObject({ reach: 'none' });
});

test('a default route through a tunnel or of IPv6 names no gateway, and nothing is held against it', async () => {
  const v6 = `${'0'.repeat(32)} 00 ${'0'.repeat(32)} 00 fe80 00000400 00000001 00000000 00000003 eth0\n`;
  const loopback = v6.replace('eth0', 'lo');
  const ask = async (routes: object) =>
    (await examineNetwork({ serverUrl: NOBODY, probes: [], routes: await tables(routes) }, never)).reach;
  expect(await ask({ v4: HEAD + TUNNEL })).toBe('network');
  expect(await ask({ v6 })).toBe('network');
  expect(await ask({ v6: loopback })).toBe('none');
});

test('addresses to try are a host or an address, and a port', () => {
  expect(parseAddress('time.example.com:443')).toEqual({ host: 'time.example.com', port: 443 });
  expect(parseAddress('[2001:db8::1]:53')).toEqual({ host: '2001:db8::1', port: 53 });
  for (const wrong of ['', 'host', 'host:0', 'host:65536', '2001:db8::1:53', 'a b:1', 'http://host:1'])
    expect([wrong, parseAddress(wrong)]).toEqual([wrong, undefined]);
});

test('a device that is connected, or was answered, is not examined; one that is not soon knows why', async () => {
  const state = { connected: true, answered: false };
  const watch = watchContact({
    network: { serverUrl: 'http://127.0.0.1:1', probes: [] },
    connected: () => state.connected,
    answeredLately: () => state.answered,
  });
  onTestFinished(() => watch.stop());
  expect(watch.contact()).toEqual({ reach: 'broker' });
  Object.assign(state, { connected: false, answered: true });
  expect(watch.contact()).toEqual({ reach: 'http' });
  state.answered = false;
  expect(watch.contact()).toEqual({ reach: 'unknown' });
  await expect.poll(() => watch.contact()).toMatchObject({ reach: 'network' });
});
