/** Why a device stays with the release of a rollout that was recalled. */
export const STAYS = {
  'ran-nothing': 'it ran nothing before, or nothing that it told of',
  'not-by-this': 'it ran the release before this rollout; recall the rollout that brought it, or send it elsewhere',
  'unknown-release': 'what it ran before was never published here',
  withdrawn: 'what it ran before was withdrawn since',
  'not-staged': 'what it ran before is not staged in any channel',
  'other-hardware': 'the release has no bundle for its hardware',
  'below-floor': 'it has committed a higher security counter since, and never goes below that',
  'shut-out': 'it is not let in',
} as const;
export type StayReason = keyof typeof STAYS;
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- Object.keys forgets what the keys are
export const STAY_REASONS = Object.keys(STAYS) as [StayReason, ...StayReason[]];
