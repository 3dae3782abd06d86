/** A release is promoted only with all that the channel requires of it, by what the audit log says. */
import type { Channel } from '#server/domain/release/channel.ts';
import type { Rows } from './rows.ts';
import type { Event } from './rules-rows.ts';
import type { World } from './world.ts';

export const checkPromoted = (
  world: World,
  channels: readonly Channel[],
  rows: Rows,
  event: Event,
  log: readonly Event[],
): void => {
  const index = channels.findIndex(({ name }) => name === event.to);
  const requires = channels[index]?.requires;
  const refuse = (what: string): void =>
    world.violate(`${String(event['version'])} was promoted to ${event.to} ${what}`);
  if (requires === undefined) return refuse('which is no channel');
  const about = log.filter((one) => one['version'] === event['version']);
  for (const check of requires.checks) {
    const word = about.findLast((one) => one.kind === 'release-checked' && one['check'] === check);
    if (word?.['outcome'] !== 'pass') refuse(`although its check ${check} has not passed`);
  }
  const approvals = about.filter((one) => one.kind === 'release-approved' && one['channel'] === event.to);
  const others = new Set(approvals.map(({ by }) => by).filter((by) => by !== event.by && by !== 'ci'));
  if (others.size < requires.approvals) refuse(`with ${others.size} of ${requires.approvals} approvals`);
  if (!requires.completedRollout) return;
  const before = rows
    .rollouts()
    .filter(({ plan }) => plan.version === event['version'] && plan.channel === channels[index - 1]?.name)
    .map(({ progress }) => (progress.state === 'completed' ? progress.at : Number.POSITIVE_INFINITY));
  if (Math.min(Number.POSITIVE_INFINITY, ...before) + requires.soakMs > event.at)
    refuse('although no rollout of it has completed, and soaked, in the channel before');
};
