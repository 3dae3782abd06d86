/** `sluice agent --status`: what the agent of this folder does, for people; and for scripts, as it wrote it down. */
import { join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere } from '#shared/durable.ts';
import { type Hold, sentenceOf } from '../deployment/holds.ts';
import { lockFolder } from '../disk/folder-lock.ts';
import { askState } from './ask-agent.ts';
import type { Status } from './status-file.ts';

const Named = z.object({ product: z.string(), version: z.string(), slot: z.string() });
/** What is shown of it. An older agent may have written less, a newer one more. */
const Known = z.object({
  device: z.string(),
  agent: z.string().optional(),
  at: z.number(),
  since: z.number().optional(),
  state: z.string(),
  stateSince: z.number().nullish(),
  release: z.string().nullable(),
  running: Named.nullable(),
  connected: z.boolean(),
  progress: z.object({ bytesDone: z.number(), bytesTotal: z.number() }).nullable(),
  disk: z.object({ state: z.string(), message: z.string() }).nullish(),
  hold: z.custom<Hold>().nullish(),
  nextAt: z.number().nullish(),
  last: z.object({ deployment: z.string(), outcome: z.string() }).nullish(),
  refusal: z.object({ code: z.string(), message: z.string() }).nullable(),
  trouble: z.object({ message: z.string() }).nullish(),
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
}) satisfies z.ZodType<Partial<Record<keyof Status, unknown>>>;
type Known = z.infer<typeof Known>;

/** `text` is for people; undefined when no agent ever ran there. */
export const readStatus = async (
  dataDir: string,
  now: number,
  socket = join(dataDir, 'agent.sock'),
): Promise<{ alive: boolean; text: string; status: unknown } | undefined> => {
  const lock = await lockFolder(dataDir);
  if (lock.ok) await lock.value.release();
  const alive = !lock.ok;
  // The file stays behind where the disk cannot be written.
  const status = (alive ? await askState(socket) : undefined) ?? (await readWritten(dataDir));
  const known = Known.safeParse(status);
  return known.success ? { alive, status, text: textOf(known.data, alive, now) } : undefined;
};

const readWritten = async (dataDir: string): Promise<unknown> => {
  const bytes = await readFileIfThere(join(dataDir, 'status.json'));
  try {
    return bytes === undefined ? undefined : JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
};

const textOf = (status: Known, alive: boolean, now: number): string => {
  const { running, release, error, progress, hold, nextAt, refusal, last, disk } = status;
  const lines: [name: string, value: string | undefined][] = [
    ['device', status.device],
    [
      'agent',
      alive
        ? `${status.agent ?? ''} runs${forHow(status.since, now)}`
        : `DOES NOT RUN; what follows is of ${timeOf(status.at)}`,
    ],
    ['disk', disk === null || disk === undefined ? undefined : `${disk.state.toUpperCase()}: ${disk.message}`],
    ['server', alive ? serverOf(status) : undefined],
    ['runs', running === null ? 'nothing yet' : `${running.product}@${running.version} (slot ${running.slot})`],
    ['state', release === null ? status.state : `${status.state}: ${release}${forHow(status.stateSince, now)}`],
    ['progress', progress === null || release === null ? undefined : barOf(progress)],
    ['waits', hold === null || hold === undefined ? undefined : sentenceOf(hold)],
    ['goes on', nextAt === null || nextAt === undefined ? undefined : `${timeOf(nextAt)}, as the server said`],
    ['error', error === null ? undefined : `${error.code}: ${error.message}`],
    ['refused', refusal === null ? undefined : `${refusal.code}: ${refusal.message}`],
    ['last', last === null || last === undefined ? undefined : `${last.deployment}: ${last.outcome}`],
  ];
  const shown = lines.flatMap(([name, value]) => (value === undefined ? [] : [`${name.padEnd(9)} ${harmless(value)}`]));
  return `${shown.join('\n')}\n`;
};

const serverOf = ({ connected, trouble }: Known): string =>
  connected ? 'connected' : `not connected${trouble === null || trouble === undefined ? '' : `: ${trouble.message}`}`;

/** What applications and servers said may hold anything; a terminal would act on control characters. */
const harmless = (text: string): string => text.replace(/[\p{Cc}\p{Cf}]/gu, ' ');

const timeOf = (at: number): string => new Date(at).toISOString().replace('T', ' ').slice(0, 19).concat(' UTC');

const forHow = (since: number | null | undefined, now: number): string => {
  if (since === null || since === undefined || since > now) return '';
  const seconds = Math.round((now - since) / 1_000);
  const [days, hours, minutes] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3_600), Math.floor(seconds / 60)];
  if (days > 1) return ` (for ${days} days)`;
  if (hours > 1) return ` (for ${hours} hours)`;
  return minutes > 1 ? ` (for ${minutes} minutes)` : ` (for ${seconds} s)`;
};

const BAR = 24;
const barOf = ({ bytesDone, bytesTotal }: { bytesDone: number; bytesTotal: number }): string => {
  const share = bytesTotal > 0 ? Math.min(1, bytesDone / bytesTotal) : 0;
  const done = Math.round(share * BAR);
  const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
  return `[${'#'.repeat(done)}${'.'.repeat(BAR - done)}] ${Math.floor(share * 100)} % of ${megabytes(bytesTotal)} MB`;
};
