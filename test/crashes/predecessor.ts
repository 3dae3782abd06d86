/**
 * How the first version of the agent reads a journal, frozen: a device that reverts to it must find its way. It is
 * never changed; what it cannot read must not be written.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';

const Id = z.string().min(1).max(128);
const Sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const Count = z.number().int().min(0);
const Signed = z.object({ payload: z.string(), keyId: Sha256, sig: z.string() });
const DeviceError = z.object({ code: z.string(), message: z.string() });
const Offer = z.object({
  seq: Count,
  expires: Count,
  install: z.object({
    kind: z.literal('install'),
    deployment: Id,
    rollout: Id,
    product: Id,
    version: z.string(),
    compatible: Id,
    securityCounter: Count,
    path: z.string(),
    sha256: Sha256,
    length: Count,
  }),
});
const journey = { offer: Offer, since: Count, transitions: Count };
const slot = z.enum(['a', 'b']);
const in_ = <const N extends string, S extends z.ZodRawShape>(name: N, fields: S) =>
  z.object({ state: z.literal(name), ...journey, ...fields });

const Memory = z.object({
  install: z.discriminatedUnion('state', [
    z.object({ state: z.literal('idle') }),
    in_('accepted', {}),
    in_('waiting', { slot }),
    in_('fetching', { slot }),
    in_('verified', { slot }),
    in_('ready', { slot }),
    in_('activating', { slot }),
    in_('trial', { slot }),
    in_('committing', { slot }),
    in_('reverting', { slot, error: DeviceError }),
    in_('verifying-revert', { slot, error: DeviceError }),
    in_('committed', { receipt: Signed.nullable() }),
    in_('reverted', { error: DeviceError, receipt: Signed.nullable() }),
    in_('failed', { error: DeviceError, receipt: Signed.nullable() }),
    in_('withdrawn', { receipt: Signed.nullable() }),
    in_('reported', { outcome: z.enum(['committed', 'reverted', 'failed', 'withdrawn']) }),
  ]),
  desiredSeq: Count,
  last: z.object({ deployment: Id, outcome: z.enum(['committed', 'reverted', 'failed', 'withdrawn']) }).nullable(),
  floor: Count,
  reportSeq: Count,
});

/**
 * The state and slot that its newest good record is in; `unreadable` when the file would be put aside; undefined when
 * it is new.
 */
export const readByPredecessor = (journal: Buffer): string | undefined => {
  let newest: string | undefined;
  const lines = journal.toString('latin1').split('\n');
  for (const [index, line] of lines.entries()) {
    const record = parse(line);
    if (record !== undefined) newest = record;
    // The last line is what follows the last newline: nothing, or a torn record.
    else if (index < lines.length - 1 || (line !== '' && newest === undefined))
      return isTail(lines, index) ? newest : 'unreadable';
  }
  return newest;
};

const isTail = (lines: string[], index: number): boolean =>
  index > 0 && lines.slice(index + 1).every((line) => line === '');

const parse = (line: string): string | undefined => {
  const body = line.slice(17);
  if (createHash('sha256').update(body, 'latin1').digest('hex').slice(0, 16) !== line.slice(0, 16)) return undefined;
  const record = z.object({ v: z.literal(1), memory: Memory }).safeParse(JSON.parse(body));
  if (!record.success) return undefined;
  const { install } = record.data.memory;
  return 'slot' in install ? `${install.state} ${install.slot}` : install.state;
};
