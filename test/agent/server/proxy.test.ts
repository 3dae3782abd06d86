import { expect, test } from 'vitest';
import { parseProxy } from '#agent/config/proxy-config.ts';
import { chooseProxy, type Target } from '#agent/server/proxy.ts';

test.each([
  ['http://proxy.example.com:3128', { protocol: 'http:', host: 'proxy.example.com', port: 3128, login: null }],
  ['proxy.example.com:3128', { protocol: 'http:', host: 'proxy.example.com', port: 3128 }],
  ['https://proxy.example.com/', { protocol: 'https:', port: 443, name: 'https://proxy.example.com' }],
  [
    'http://us%20er:p%40ss:w@[fd00::1]:80',
    { host: 'fd00::1', port: 80, login: 'us er:p@ss:w', name: 'http://[fd00::1]' },
  ],
  ['http://token@proxy', { port: 80, login: 'token:', name: 'http://proxy' }],
])('%s is a proxy', (text, proxy) => {
  expect(parseProxy(text)).toMatchObject(proxy);
  expect(parseProxy(text)!.name).not.toMatch(/us%20er|token/);
});

test.each([
  '',
  'socks5://proxy:1080',
  'http://',
  'http://proxy:0',
  'http://proxy:99999',
  'http://proxy/path',
  'http://a b',
  'http://%zz:x@proxy',
])('%j is none', (text) => expect(parseProxy(text)).toBeUndefined());

const PROXIES = { http: parseProxy('plain:1')!, https: parseProxy('secure:2')! };
const choose = (target: Partial<Target>, except: string[] = []) =>
  chooseProxy({ ...PROXIES, except }, { scheme: 'https', host: 'updates.example.com', port: 443, ...target });

test('what is encrypted, and MQTT, goes through the one for https; what is not through the one for http', () => {
  expect((['http', 'ws'] as const).map((scheme) => choose({ scheme })?.host)).toEqual(['plain', 'plain']);
  const others = ['https', 'wss', 'mqtt', 'mqtts'] as const;
  expect(new Set(others.map((scheme) => choose({ scheme })?.host))).toEqual(new Set(['secure']));
  expect(chooseProxy({ http: null, https: null, except: [] }, { scheme: 'https', host: 'x', port: 1 })).toBeNull();
});

test.each<[string, Partial<Target>, boolean]>([
  ['*', {}, true],
  ['updates.example.com', {}, true],
  ['UPDATES.example.COM', {}, true],
  ['example.com', {}, true],
  ['.example.com', {}, true],
  ['*.example.com', {}, true],
  ['example.com', { host: 'Example.Com.' }, true],
  ['.example.com', { host: 'example.com' }, true],
  ['example.com', { host: 'badexample.com' }, false],
  ['ample.com', {}, false],
  ['com.example', {}, false],
  ['updates.example.com:443', {}, true],
  ['updates.example.com:8443', {}, false],
  ['10.0.0.7', { host: '10.0.0.7' }, true],
  ['10.0.0.7:443', { host: '10.0.0.7' }, true],
  ['10.0.0.7:80', { host: '10.0.0.7' }, false],
  ['10.0.0.0/8', { host: '10.200.3.4' }, true],
  ['10.0.0.0/8', { host: '11.0.0.1' }, false],
  ['10.0.0.0/8', { host: '10.example.com' }, false],
  ['0.0.7', { host: '10.0.0.7' }, false],
  ['10.0.0.0/33', { host: '10.0.0.7' }, false],
  ['fd00::1', { host: 'fd00:0:0::1' }, true],
  ['[fd00::1]', { host: 'fd00::1' }, true],
  ['[fd00::1]:443', { host: 'fd00::1' }, true],
  ['[fd00::1]:444', { host: 'fd00::1' }, false],
  ['fd00::/8', { host: 'fd12::1' }, true],
  ['127.0.0.1', { host: 'localhost' }, false],
  ['', {}, false],
  ['.', {}, false],
  [':443', {}, false],
])('NO_PROXY=%s for %j: %s', (word, target, isDirect) => {
  expect(choose(target, ['elsewhere.example.org', word]) === null).toBe(isDirect);
});
