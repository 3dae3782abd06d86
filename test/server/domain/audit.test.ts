import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AuditEvent, auditLine, byDevice, parseAuditEvent, sentenceOf } from '#server/domain/audit.ts';
import { Id, Sha256 } from '#shared/ids.ts';

const [rollout, device, product, compatible] = ['r-1', 'gw-01', 'gateway', 'gw2'].map((text) => Id.parse(text));
if (!rollout || !device || !product || !compatible) throw new Error('four ids');
const version = '1.4.0';
const at = 1_800_000_000_000;
const signed = { payload: '{}', keyId: Sha256.parse('a'.repeat(64)), sig: 'ab' };
const alice = { at, by: 'alice' };
const server = { at, by: 'server' };

/** One of each kind, with its sentence. */
const SAMPLES: [AuditEvent, string][] = [
  [
    { ...server, kind: 'server-initialised', rootSha256: 'abc' },
    'The server made its keys; its trust root has the digest abc.',
  ],
  [
    { ...server, kind: 'server-restored', backupAt: 1_700_000_000_000, size: 12, root: 'abc' },
    'The server was restored from a backup of 2023-11-14T22:13:20.000Z; the log had 12 entries then, with the root abc.',
  ],
  [
    { ...server, kind: 'clock-set', stepMs: -3_600_000 },
    "The server's clock was set back by 1 h; deadlines and soak times moved along.",
  ],
  [{ ...alice, kind: 'operator-created', name: 'bob', role: 'ci' }, 'alice created operator bob with the role ci.'],
  [{ ...alice, kind: 'operator-revoked', name: 'bob' }, 'alice revoked operator bob.'],
  [
    { ...alice, kind: 'product-created', product, keys: ['k1'] },
    'alice created product gateway and let 1 CI key sign for it (k1).',
  ],
  [
    { ...alice, kind: 'bundle-accepted', product, version, compatible, manifest: 'abc', keyId: 'k1' },
    'alice published gateway@1.4.0 for gw2: manifest abc, signed by CI key k1.',
  ],
  [
    { ...alice, kind: 'release-staged', product, version, channel: Id.parse('production') },
    'alice staged gateway@1.4.0 in channel production.',
  ],
  [
    {
      ...alice,
      kind: 'release-checked',
      product,
      version,
      check: Id.parse('e2e'),
      outcome: 'fail',
      link: 'https://ci.example.com/1',
    },
    'alice reported that check e2e of gateway@1.4.0 failed (https://ci.example.com/1).',
  ],
  [
    { ...alice, kind: 'release-approved', product, version, channel: Id.parse('production'), note: 'looked at it' },
    'alice approved gateway@1.4.0 for channel production: looked at it.',
  ],
  [
    {
      ...alice,
      kind: 'release-promoted',
      product,
      version,
      from: Id.parse('staging'),
      to: Id.parse('production'),
      approvedBy: ['bob', 'carol'],
    },
    'alice promoted gateway@1.4.0 from staging to production, approved by bob, carol.',
  ],
  [
    { ...alice, kind: 'release-withdrawn', product, version, reason: 'bad flash' },
    'alice withdrew release gateway@1.4.0: bad flash.',
  ],
  [{ ...alice, kind: 'enrolment-tokens-created', tokens: 2, device: null }, 'alice made 2 enrolment tokens.'],
  [
    { at, by: byDevice(device), kind: 'device-enrolled', device, publicKey: 'ff', compatible, state: 'accepted' },
    'Device gw-01 (gw2) enrolled with a token and was let in; its key is ff.',
  ],
  [{ ...alice, kind: 'device-accepted', device }, 'alice let device gw-01 in.'],
  [{ ...alice, kind: 'device-rejected', device }, 'alice shut device gw-01 out.'],
  [
    { ...alice, kind: 'device-tagged', device, tags: { site: 'lyon', old: '' } },
    'alice tagged device gw-01: site=lyon, old removed.',
  ],
  [{ ...alice, kind: 'cohort-created', cohort: Id.parse('all') }, 'alice created cohort all.'],
  [
    { ...alice, kind: 'rollout-planned', rollout, product, version, devices: 8, waveSizes: [2, 6], excluded: 1 },
    'alice planned rollout r-1 of gateway@1.4.0 to 8 devices in 2 waves (2, 6), leaving out 1.',
  ],
  [
    { ...alice, kind: 'rollout-approved', rollout, approvedBy: ['bob', 'alice'], needed: 2, note: 'looks good' },
    'alice approved rollout r-1, 2 of 2 approvals: looks good.',
  ],
  [{ ...server, kind: 'rollout-started', rollout }, 'Rollout r-1 started.'],
  [
    { ...server, kind: 'wave-opened', rollout, wave: 0, why: 'the rollout started' },
    'Rollout r-1 opened wave 1: the rollout started.',
  ],
  [{ ...alice, kind: 'rollout-paused', rollout, note: '' }, 'alice paused rollout r-1.'],
  [
    { ...alice, kind: 'rollout-resumed', rollout, note: 'known', acknowledged: 1 },
    'alice resumed rollout r-1 after its halt, with 1 failed device set aside: known.',
  ],
  [
    { ...alice, kind: 'failures-acknowledged', rollout, devices: [device] },
    'alice acknowledged that device gw-01 failed in rollout r-1: this no longer counts.',
  ],
  [
    {
      ...server,
      kind: 'rollout-halted',
      rollout,
      reason: { kind: 'evidence', failed: 2, offered: 2, evidence: 484.6484, group: 'all/gw2' },
    },
    'Rollout r-1 halted: 2 of 2 devices failed in all/gw2, which is 485 to 1 evidence of a failure rate above the tolerated one.',
  ],
  [{ ...alice, kind: 'rollout-aborted', rollout, note: 'wrong' }, 'alice aborted rollout r-1: wrong.'],
  [
    { ...alice, kind: 'rollout-recalled', rollout, to: null, note: 'GW-31' },
    'alice recalled rollout r-1: its devices go back to what each ran before: GW-31.',
  ],
  [
    { ...server, kind: 'recall-joined', rollout: Id.parse('r-1-r1'), recalls: rollout, devices: [device] },
    'Rollout r-1-r1: device gw-01 joined, to go back like the others of rollout r-1.',
  ],
  [
    { ...server, kind: 'recall-stays', rollout, devices: [device], reason: 'ran-nothing' },
    'Rollout r-1 was recalled, but device gw-01 cannot go back: it ran nothing before, or nothing that it told of.',
  ],
  [
    { ...alice, kind: 'rollout-activated', rollout, installed: 40, note: '' },
    'alice let the devices of rollout r-1 activate the release; 40 devices had installed it.',
  ],
  [{ ...server, kind: 'rollout-completed', rollout }, 'Rollout r-1 completed: every device is decided.'],
  [
    {
      ...server,
      kind: 'decisions-pruned',
      rollout: Id.parse('ro-1'),
      decisions: 66,
      newest: Sha256.parse('a'.repeat(64)),
    },
    `Rollout ro-1 is long over: its first 66 decisions were pruned, up to the one with the digest ${'a'.repeat(64)}.`,
  ],
  [
    { ...server, kind: 'offered', rollout, wave: 1, devices: [device] },
    'Rollout r-1, wave 2: offered to device gw-01.',
  ],
  [
    {
      ...server,
      kind: 'withdrawn',
      rollout,
      devices: Array.from({ length: 7 }, (_, n) => Id.parse(`gw-${n}`)),
      reason: 'rollout aborted',
    },
    'Rollout r-1: the offer to 7 devices (gw-0, gw-1, gw-2, gw-3, gw-4, ...) was withdrawn: rollout aborted.',
  ],
  [
    { ...server, kind: 'replanned', rollout, devices: [device] },
    'Rollout r-1: device gw-01 will be offered the release again, after the halt that withdrew the offer.',
  ],
  [
    { ...server, kind: 'rollout-joined', rollout, wave: 1, devices: [Id.parse('gw-1')] },
    'Rollout r-1, wave 2: device gw-1 came to match its cohorts and joined.',
  ],
  [
    { ...server, kind: 'key-shared', device: Id.parse('gw-1') },
    'Two devices use the key of gw-1; it is offered nothing meanwhile.',
  ],
  [
    {
      ...server,
      kind: 'device-drifted',
      device: Id.parse('gw-1'),
      expected: 'gateway@1.0.0',
      running: 'gateway@0.9.0',
    },
    'Device gw-1 runs gateway@0.9.0, which no one told it to run; it should run gateway@1.0.0.',
  ],
  [
    { ...server, kind: 'drift-ended', device: Id.parse('gw-1'), running: 'gateway@1.0.0', deployment: null },
    'Device gw-1 drifts no more: it runs gateway@1.0.0, as it should.',
  ],
  [
    { ...alice, kind: 'drift-adopted', device: Id.parse('gw-1'), running: 'gateway@0.9.0', note: 'by hand' },
    'alice adopted what device gw-1 runs (gateway@0.9.0) as what it should run: by hand.',
  ],
  [
    { ...server, kind: 'taken-over', rollout, for: Id.parse('r-2'), devices: [Id.parse('gw-1')] },
    'Rollout r-2 comes first and took over device gw-1 from rollout r-1.',
  ],
  [
    { ...server, kind: 'skipped', rollout, devices: [device, compatible] },
    'Rollout r-1: skipped devices gw-01, gw2, which ran the release already.',
  ],
  [
    { ...server, kind: 'overdue', rollout, class: 'silent', reached: 'trial', devices: [device] },
    'Rollout r-1: device gw-01 took the offer up, fell silent in trial, and the deadline passed; this counts as failed.',
  ],
  [
    {
      ...server,
      kind: 'deployment-moved',
      rollout,
      deployment: Id.parse('d-1'),
      device,
      from: 'trial',
      to: 'reverted',
      error: 'TRIAL_CRASHED',
      message: 'it exited with code 3',
    },
    'Device gw-01 moved from trial to reverted in rollout r-1 (TRIAL_CRASHED: it exited with code 3).',
  ],
  [
    {
      ...server,
      kind: 'retry-planned',
      rollout,
      deployment: Id.parse('d-1'),
      device,
      error: 'NO_SPACE',
      notBefore: 0,
      ended: 1,
    },
    'Device gw-01 could not take up the offer of rollout r-1 (NO_SPACE); it gets another after its attempt 1, not before 1970-01-01T00:00:00.000Z.',
  ],
  [
    { ...server, kind: 'regressed', rollout, deployment: Id.parse('d-1'), device, to: 'failed', why: 'it is ill' },
    'Device gw-01, which had committed in rollout r-1, counts as failed now: it is ill.',
  ],
  [
    { ...server, kind: 'receipt', device, deployment: Id.parse('d-1'), receipt: signed },
    'Device gw-01 signed its receipt for deployment d-1.',
  ],
  [
    { ...server, kind: 'receipt-refused', device, why: 'the signature does not verify' },
    'A receipt of device gw-01 was refused: the signature does not verify.',
  ],
];

describe('every audit event', () => {
  test('tells a device that took the place of another from one that came new', () => {
    const event = { at, by: byDevice(device), kind: 'device-enrolled' as const, device, publicKey: 'ff', compatible };
    expect(sentenceOf({ ...event, state: 'accepted', replaced: true })).toBe(
      'Device gw-01 (gw2) enrolled again with a token made for it; its key is now ff, and the one before counts no more.',
    );
  });

  test('of a recall says what is taken back, and where to', () => {
    const about = { product, version, devices: 2, waveSizes: [2], excluded: 3, belowFloor: 2 };
    const planned = {
      ...alice,
      kind: 'rollout-planned' as const,
      rollout: Id.parse('r-1-r1'),
      ...about,
      recalls: rollout,
    };
    expect(sentenceOf(planned)).toBe(
      'alice planned rollout r-1-r1 of gateway@1.4.0 to 2 devices in 1 wave (2), leaving out 3 (2 of them below their security floor), to take back rollout r-1.',
    );
    expect(sentenceOf({ ...server, kind: 'rollout-recalled', rollout, to: 'gateway@1.3.0', note: '' })).toBe(
      'Rollout r-1 was recalled as its policy says: its devices go back to gateway@1.3.0.',
    );
  });

  test('has a sample here', () => {
    const kinds = AuditEvent.options.map((option) => option.shape.kind.value);
    expect(SAMPLES.map(([event]) => event.kind)).toEqual(kinds);
  });

  test.each(SAMPLES)('has a sentence: %#', (event, sentence) => {
    expect(sentenceOf(event)).toBe(sentence);
  });

  test.each(SAMPLES)('reads back from its line: %#', (event) => {
    expect(parseAuditEvent(auditLine(event).payload)).toEqual(event);
  });
});

describe('a line', () => {
  test('is canonical: members sorted, decimals as text, what is undefined left out', () => {
    const reason = { kind: 'budget' as const, failed: 3, offered: 40, excess: 2.2, budget: 3, group: 'all/gw2' };
    expect(auditLine({ at: 1, by: 'server', kind: 'rollout-halted', rollout, reason }).payload).toBe(
      '{"at":1,"by":"server","kind":"rollout-halted","reason":{"budget":3,"excess":"2.2","failed":3,"group":"all/gw2","kind":"budget","offered":40},"rollout":"r-1"}',
    );
    expect(
      auditLine({ at: 1, by: 'alice', kind: 'rollout-resumed', rollout, note: '', acknowledged: undefined }).payload,
    ).toBe('{"at":1,"by":"alice","kind":"rollout-resumed","note":"","rollout":"r-1"}');
  });

  test('keeps every digit of what it was decided by', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (excess) => {
        const reason = { kind: 'budget' as const, failed: 3, offered: 40, excess, budget: 3, group: 'all/gw2' };
        const read = parseAuditEvent(
          auditLine({ at: 1, by: 'server', kind: 'rollout-halted', rollout, reason }).payload,
        );
        expect(read).toMatchObject({ reason: { excess: excess + 0 } }); // -0 is 0
      }),
    );
  });

  test('that is no line of ours is not taken for one', () => {
    expect(parseAuditEvent('not json')).toBeUndefined();
    expect(parseAuditEvent('{"at":1,"by":"x","kind":"from-the-future"}')).toBeUndefined();
    expect(parseAuditEvent('{"at":"yesterday","by":"x","kind":"rollout-started","rollout":"r-1"}')).toBeUndefined();
  });
});
