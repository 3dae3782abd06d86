import { expect, test } from 'vitest';
import { LOGIN_MS_MAX } from '#shared/device-api.ts';
import { Id } from '#shared/ids.ts';
import { makeLogin, readLogin, verifyLogin } from '#shared/trust/login.ts';
import { newSigner } from '#test/server/trust/throw-away.ts';

const [signer, stranger] = [newSigner(), newSigner()];
const device = Id.parse('gw-01');
const NOW = 1_790_000_000_000;
const key = signer.key.keyval.public;

test('a device logs in with a token that it made itself', () => {
  const token = makeLogin(signer, device, NOW);
  expect(readLogin(token)?.device).toBe(device);
  expect(verifyLogin(token, key, NOW + 1000)).toMatchObject({ ok: true, value: { device, at: NOW } });
});

test('no two tokens are the same', () => {
  expect(makeLogin(signer, device, NOW)).not.toBe(makeLogin(signer, device, NOW));
});

test('a token is good for five minutes of clock difference either way, and then the device is told that it is the clock', () => {
  const token = makeLogin(signer, device, NOW);
  for (const skew of [-LOGIN_MS_MAX, LOGIN_MS_MAX]) expect(verifyLogin(token, key, NOW + skew).ok).toBe(true);
  for (const skew of [-LOGIN_MS_MAX - 1, LOGIN_MS_MAX + 1]) {
    expect(verifyLogin(token, key, NOW + skew)).toMatchObject({ ok: false, code: 'clock-skew' });
  }
});

test("another device's key, changed bytes and other forms are unauthenticated, whatever the clock says", () => {
  const token = makeLogin(signer, device, NOW);
  const [body = '', sig = ''] = token.split('.');
  const renamed = Buffer.from(Buffer.from(body, 'base64url').toString().replace('gw-01', 'gw-02')).toString(
    'base64url',
  );
  const garbage = `${Buffer.from('[]').toString('base64url')}.${sig}`;
  const noJson = `${Buffer.from('not json').toString('base64url')}.${sig}`;
  for (const bad of ['', '.', body, `${renamed}.${sig}`, `${body}.${sig}x`, garbage, noJson, `${token}.${sig}`]) {
    expect(verifyLogin(bad, key, NOW)).toMatchObject({ ok: false, code: 'unauthenticated' });
  }
  expect(verifyLogin(token, stranger.key.keyval.public, 0)).toMatchObject({ ok: false, code: 'unauthenticated' });
  expect(readLogin(garbage)).toBeUndefined();
});
