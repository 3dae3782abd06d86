/**
 * How the command line spells durations, tags, waves and settings. What is wrong is a usage error that says how it is
 * right.
 */
import { InvalidArgumentError } from 'commander';
import { z } from 'zod';
import { Id } from '#shared/ids.ts';
import { CohortPlan, Policy } from '#shared/policy.ts';
import { MaintenanceWindow } from '#shared/windows.ts';
import { usageFailure } from './failure.ts';
import { readMapping } from './mapping-file.ts';

const UNITS_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 };

/** `90s`, `15m`, `12h`, `30d`, `250ms`, in milliseconds. */
export const duration = (text: string): number => {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|min|h|d)$/.exec(text);
  if (match === null) throw new InvalidArgumentError('must be a length of time such as 90s, 15m, 12h or 30d');
  return Math.round(Number(match[1]) * UNITS_MS[match[2]!]!);
};

export const wholeNumber = (text: string): number => {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('must be a whole number');
  return Number(text);
};

export const id = (text: string): Id => {
  const parsed = Id.safeParse(text);
  if (!parsed.success) throw new InvalidArgumentError('must be 1 to 64 letters, digits, "-" or "_"');
  return parsed.data;
};

/** For options that may be given several times. */
export const collect =
  <T>(parse: (text: string) => T) =>
  (text: string, before: T[] | undefined): T[] => [...(before ?? []), parse(text)];
export const collectText = collect((text: string) => text);

/** `name=value`; the value may be empty. */
export const pair = (text: string): [name: string, value: string] => {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('must be name=value');
  return [text.slice(0, at), text.slice(at + 1)];
};

const DEADLINES = ['accept', 'fetch', 'install', 'ready', 'trial', 'outcome'];
/** `trial=10m`, as the setting of the policy that it stands for. */
export const deadline = (text: string): [path: string, ms: string] => {
  const [step, time] = text.split('=', 2);
  if (step === undefined || time === undefined || !DEADLINES.includes(step))
    throw new InvalidArgumentError(`must be step=time, as in trial=10m; steps are ${DEADLINES.join(', ')}`);
  return [`deadlines.${step}Ms`, String(duration(time))];
};

/** `canary`, or `everyone=10%,50%,100%`, or `everyone=2,20,100%`: waves, cumulatively, in devices or percent. */
export const cohortPlan = (text: string): z.input<typeof CohortPlan> => {
  const [cohort, waves] = text.split('=', 2);
  const plan: { cohort: string; waves?: unknown[] } = { cohort: cohort! };
  if (waves !== undefined) {
    plan.waves = waves.split(',').map((wave) => {
      if (/^\d+$/.test(wave)) return { count: Number(wave) };
      if (/^\d+(\.\d+)?%$/.test(wave)) return { percent: Number.parseFloat(wave) };
      throw new InvalidArgumentError(`waves are numbers of devices or percentages, as in ${cohort}=2,10%,100%`);
    });
  }
  const parsed = CohortPlan.safeParse(plan);
  if (!parsed.success) throw new InvalidArgumentError(parsed.error.issues.map((issue) => issue.message).join('; '));
  return parsed.data;
};

/**
 * `0 2 * * 1-5 for 2h`, `... for 2h in Europe/Paris` (for devices that report no zone), `... only in Europe/Paris` (for
 * all).
 */
export const maintenanceWindow = (text: string): z.input<typeof MaintenanceWindow> => {
  const match = /^(.+?) for (\S+)(?: (only )?in (\S+))?$/.exec(text.trim());
  const parsed =
    match &&
    MaintenanceWindow.safeParse({
      cron: match[1],
      durationMs: duration(match[2]!),
      ...(match[4] === undefined ? {} : { timeZone: match[4] }),
      ...(match[3] === undefined ? {} : { ofDevice: false }),
    });
  if (parsed?.success === true) return parsed.data;
  const why = parsed?.error.issues.map((issue) => issue.message).join('; ');
  throw new InvalidArgumentError(`${why ?? 'must be a window'}, as in "0 2 * * 1-5 for 2h in Europe/Paris"`);
};

/** `lyon=0 2 * * * for 2h` */
export const cohortWindow = (text: string): [string, z.input<typeof MaintenanceWindow>] => {
  const [cohort, window] = pair(text);
  return [cohort, maintenanceWindow(window)];
};

/** A moment: ISO 8601, or `+15m` from now. */
export const moment = (text: string): number => {
  const at = text.startsWith('+') ? Date.now() + duration(text.slice(1)) : Date.parse(text);
  if (Number.isNaN(at)) throw new InvalidArgumentError('must be a time such as 2026-12-01T02:00:00Z, or +15m');
  return at;
};

/** A policy from a YAML or JSON file, with single fields set over it: `gate.soakMs=5000`, `judge.budget=5`. */
export const readPolicy = async (
  file: string | undefined,
  settings: [string, string][],
): Promise<z.input<typeof Policy>> => {
  const policy: Record<string, unknown> = file === undefined ? {} : await readMapping(file, 'gate: {soakMs: 5000}');
  for (const [path, text] of settings) setAt(policy, path.split('.'), text);
  // The rule's own name can be left out when only its dials are turned.
  const judge = policy['judge'];
  if (typeof judge === 'object' && judge !== null && !('rule' in judge)) Object.assign(judge, { rule: 'evidence' });
  const parsed = Policy.safeParse(policy);
  if (parsed.success) return parsed.data;
  const issues = parsed.error.issues.map((issue) => `  ${issue.path.join('.')}: ${issue.message}`);
  throw usageFailure(['This is no policy:', ...issues].join('\n'));
};

const setAt = (into: Record<string, unknown>, path: string[], text: string): void => {
  const [name, ...rest] = path;
  if (name === undefined || name === '' || name === '__proto__')
    throw usageFailure('--set takes path=value, such as gate.soakMs=5000');
  if (rest.length === 0) {
    into[name] = /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text;
    return;
  }
  const inner = z.record(z.string(), z.unknown()).safeParse(into[name] ?? {});
  if (!inner.success) throw usageFailure(`--set ${path.join('.')}: ${name} has no fields`);
  into[name] = inner.data;
  setAt(inner.data, rest, text);
};
