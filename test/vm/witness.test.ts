import { expect, test } from 'vitest';
import type { SlotImage } from './images.ts';
import { openWitness } from './witness.ts';

const image = (version: string): SlotImage => ({ version, fault: 'none', file: '', sha256: `digest of ${version}` });
const booted = (version: string, slot: string): string =>
  `VM booted release=${version} BOOT_IMAGE=/vmlinuz quiet sluice.slot=${slot} panic=1`;

const witnessOf = (slots: { a: string; b: string }) => {
  const witness = openWitness((slot) => `digest of ${slots[slot]}`);
  for (const version of ['1.0.0', '1.1.0']) witness.published(image(version));
  return witness;
};

test('a published release that boots and says what it is is well', () => {
  const witness = witnessOf({ a: '1.0.0', b: '1.1.0' });
  expect(witness.line(booted('1.1.0', 'b'))).toEqual({ kind: 'booted', slot: 'b', image: image('1.1.0') });
  expect(witness.violation()).toBeUndefined();
});

test('a slot that is not any published release must not boot', () => {
  const witness = witnessOf({ a: '1.0.0', b: 'half of 1.1.0' });
  expect(witness.line(booted('1.1.0', 'b'))).toBeUndefined();
  expect(witness.violation()).toContain('not any release that was published');
});

test('what says that it booted must be what the slot holds', () => {
  const witness = witnessOf({ a: '1.0.0', b: '1.1.0' });
  witness.line(booted('1.1.0', 'a'));
  expect(witness.violation()).toContain('slot a holds 1.0.0');
});

test('no power cut excuses a damaged file system, an agent that ends, or an unexpected failure in it', () => {
  const lines = [
    'EXT4-fs error (device vda4): ext4_lookup:1805: inode #2',
    'VM agent ended with 1',
    'VM vda4 cannot be mounted',
    '{"level":50,"event":"effect-failed","msg":"install failed unexpectedly"}',
  ];
  for (const line of lines) {
    const witness = witnessOf({ a: '1.0.0', b: '1.1.0' });
    witness.line(line);
    expect(witness.violation()).toContain(line);
  }
});

test('the first that is wrong is what is told', () => {
  const witness = witnessOf({ a: '1.0.0', b: '1.1.0' });
  witness.accuse('this');
  witness.accuse('that');
  expect(witness.violation()).toBe('this');
});

test('the states of the agent are read from its log, and what is half a line is nothing', () => {
  const witness = witnessOf({ a: '1.0.0', b: '1.1.0' });
  expect(witness.line('{"event":"state-entered","state":"trial","release":"system@1.1.0"}')).toEqual({
    kind: 'entered',
    state: 'trial',
    release: 'system@1.1.0',
  });
  expect(witness.line('{"event":"connected"}')).toEqual({ kind: 'connected' });
  expect(witness.line('{"event":"state-ent')).toBeUndefined();
  expect(witness.violation()).toBeUndefined();
});
