/**
 * What must hold, whatever is cut: held against the console and the drive at every boot. The first thing that does not
 * hold is told with its history.
 */
import type { SlotImage } from './images.ts';

const HISTORY_LINES_MAX = 400;

export type BootSeen = { slot: 'a' | 'b'; image: SlotImage };

export type Witness = {
  published(image: SlotImage): void;
  /** Takes a line of the console; returns what it means, if anything. */
  line(line: string): LineMeaning | undefined;
  /** Whatever else is wrong. */
  accuse(what: string): void;
  violation(): string | undefined;
  history(): string[];
  note(line: string): void;
};

type LineMeaning =
  | ({ kind: 'booted' } & BootSeen)
  | { kind: 'entered'; state: string; release: string | undefined }
  | { kind: 'connected' };

const BOOTED = /VM booted release=(\S+) .*sluice\.slot=([ab])\b/;
/** Of the kernel, the system and the agent: what no power cut excuses. */
const NEVER = [/EXT4-fs error/, /cannot be mounted/, /VM (no|agent ended)/, /I\/O error/];
const NEVER_EVENTS = new Set([
  'step-failed',
  'effect-failed',
  'report-failed',
  'journal-not-written',
  'root-not-pinned',
]);

export const openWitness = (digestOf: (slot: 'a' | 'b') => string): Witness => {
  const images = new Map<string, SlotImage>();
  const kept: string[] = [];
  let violation: string | undefined;

  const accuse = (what: string): void => {
    violation ??= what;
  };
  const note = (line: string): void => {
    kept.push(line);
    if (kept.length > HISTORY_LINES_MAX) kept.shift();
  };

  const booted = (version: string, slot: 'a' | 'b'): LineMeaning | undefined => {
    const image = images.get(digestOf(slot));
    if (image === undefined) {
      accuse(`slot ${slot} booted (it calls itself ${version}), and is not any release that was published`);
      return undefined;
    }
    if (image.version !== version) accuse(`slot ${slot} holds ${image.version}, but ${version} says that it booted`);
    return { kind: 'booted', slot, image };
  };

  const agentLine = (line: string): LineMeaning | undefined => {
    let parsed: Record<string, unknown>;
    try {
      parsed = JSON.parse(line) as Record<string, unknown>;
    } catch {
      return undefined;
    }
    const { event, state, release } = parsed;
    if (typeof event !== 'string') return undefined;
    if (NEVER_EVENTS.has(event)) accuse(`the agent says ${line}`);
    if (event === 'connected') return { kind: 'connected' };
    if (event !== 'state-entered' || typeof state !== 'string') return undefined;
    return { kind: 'entered', state, release: typeof release === 'string' ? release : undefined };
  };

  return {
    published: (image) => void images.set(image.sha256, image),
    line: (line) => {
      note(line);
      if (NEVER.some((wrong) => wrong.test(line))) accuse(`the console says ${line}`);
      const boot = BOOTED.exec(line);
      if (boot !== null) return booted(boot[1]!, boot[2] === 'a' ? 'a' : 'b');
      return line.startsWith('{') ? agentLine(line) : undefined;
    },
    accuse,
    violation: () => violation,
    history: () => kept,
    note,
  };
};
