/** Becoming a member of a fleet: enrolment, and the trust root that it is held to from then on. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Backoff, backoffMs } from '../domain/backoff.ts';
import type { Log } from '../log.ts';
import { AgentStopped } from '../process/agent-stopped.ts';
import type { DeviceTrust } from '../trust/device-trust.ts';
import { type Enrolled, enrol } from './enrol.ts';

/** Throws `AgentStopped` when the server refuses for good. */
export const enrolOrStop = async (options: Parameters<typeof enrol>[0]): Promise<Enrolled> => {
  const enrolled = await enrol(options);
  if (!enrolled.ok) throw new AgentStopped(enrolled.detail);
  options.log.info({ event: 'enrolled' }, `enrolled as ${enrolled.value.device} at ${enrolled.value.serverUrl}`);
  return enrolled.value;
};

/** Until it is pinned, or was before. */
export const pinRoot = async (
  trust: DeviceTrust,
  { rootSha256 }: Enrolled,
  log: Log,
  backoff: Backoff,
  signal: AbortSignal,
): Promise<void> => {
  for (let attempt = 0; ; attempt += 1) {
    const pinned = await trust.pinRoot(rootSha256);
    if (pinned.ok) return;
    log.error({ event: 'root-not-pinned', code: pinned.code }, `the trust root cannot be pinned: ${pinned.message}`);
    // A device that has its root already lives with it.
    if (trust.hasRoot()) return;
    await sleep(backoffMs(attempt, backoff, Math.random()), undefined, { signal });
  }
};
