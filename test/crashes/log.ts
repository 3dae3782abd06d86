import type { Log } from '#agent/log.ts';

const lines: string[] = [];
const keep = (_fields: object, message?: string): void => {
  lines.push(message ?? '');
  if (lines.length > 40) lines.shift();
};

/** What agents said last. */
export const log = { debug: () => undefined, info: keep, warn: keep, error: keep } as unknown as Log;
export const said = (): string[] => lines.splice(0);
