/** The last lines of the agent's own log, for a server that wants to know what went wrong. */
import { z } from 'zod';
import { CUT } from '../application/redact.ts';

export type RecentLines = { add: (line: string) => void; last: () => string };

const Line = z.object({
  time: z.string(),
  level: z.number(),
  msg: z.string(),
  err: z.object({ message: z.string() }).optional(),
});
const LEVELS: Record<number, string> = { 10: 'trace', 20: 'debug', 30: 'info', 40: 'warn', 50: 'error', 60: 'fatal' };
const LINE_CHARS_MAX = 1_000;

/** Takes pino's JSON; keeps words for people. */
export const keepRecentLines = (charsMax: number): RecentLines => {
  const lines: string[] = [];
  let chars = 0;
  return {
    add: (text) => {
      const words = wordsOf(text);
      const line = words.length > LINE_CHARS_MAX ? `${words.slice(0, LINE_CHARS_MAX)}${CUT}` : words;
      lines.push(line);
      chars += line.length + 1;
      while (chars > charsMax) chars -= (lines.shift()?.length ?? 0) + 1;
    },
    last: () => lines.map((line) => `${line}\n`).join(''),
  };
};

const wordsOf = (text: string): string => {
  try {
    const { time, level, msg, err } = Line.parse(JSON.parse(text));
    return `${time} ${LEVELS[level] ?? level} ${msg}${err === undefined ? '' : `: ${err.message}`}`;
  } catch {
    return text.trimEnd();
  }
};
