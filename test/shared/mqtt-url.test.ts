import { expect, test } from 'vitest';
import { MqttUrl, parseMqttUrl } from '#shared/mqtt-url.ts';

test.each([
  ['mqtt://broker.example.com', { protocol: 'mqtt', host: 'broker.example.com', port: 1883 }],
  ['mqtts://broker:1', { protocol: 'mqtts', host: 'broker', port: 1 }],
  ['mqtts://10.0.0.7/', { protocol: 'mqtts', host: '10.0.0.7', port: 8883 }],
  ['mqtt://[fd00::1]:65535', { protocol: 'mqtt', host: 'fd00::1', port: 65_535 }],
  ['ws://gateway_1/mqtt?site=lyon', { protocol: 'ws', host: 'gateway_1', port: 80, path: '/mqtt?site=lyon' }],
  ['wss://broker:8084/mqtt', { protocol: 'wss', host: 'broker', port: 8084, path: '/mqtt' }],
])('%s is an address', (text, address) => {
  expect(parseMqttUrl(text)).toMatchObject(address);
  expect(MqttUrl.safeParse(text).success).toBe(true);
});

test.each([
  '',
  'mqtt.example.com',
  'mqtt.example.com:1883',
  '10.0.0.7:1883',
  'mqtt:broker',
  'mqtt://',
  'mqtt:///path',
  'mqtt://:1883',
  'mqtt://broker:0',
  'mqtt://broker:65536',
  'mqtt://broker:port',
  'mqtt://[::1',
  'mqtt://[fe80::1%eth0]:1883',
  'mqtt://bro ker:1883',
  'mqtt://broker:1883\n',
  ' mqtt://broker:1883',
  'mqtt://bro\0ker:1883',
  'mqtt://bro%00ker:1883',
  'mqtt://user:password@broker:1883',
  'http://broker:1883',
  'tcp://broker:1883',
  `mqtt://${'a'.repeat(600)}`,
])('%j is no address', (text) => {
  expect(parseMqttUrl(text)).toBeUndefined();
  expect(MqttUrl.safeParse(text).success).toBe(false);
});
