/** Everything that is explored of one adapter, by name. */
import { DEATHS, type Exploration, SCENARIOS, type Scenario } from './world.ts';

type What = Pick<Exploration, 'scenario' | 'again' | 'refuses'>;

/** Different in each recovery, and from the first to the last of its changes. */
const again = (point: number): number => 1 + ((point * 7) % 41);

export const EXPLORATIONS: Record<string, What & { sentence: string }> = {
  ...Object.fromEntries(
    Object.entries(SCENARIOS).map(([scenario, outcome]) => [
      scenario,
      {
        scenario: scenario as Scenario,
        sentence: `wherever it dies while it installs what is ${scenario}, that ends as ${outcome}, once, and something verified boots at every moment`,
      },
    ]),
  ),
  twice: {
    scenario: 'unhealthy',
    again,
    sentence: 'two deaths, the second at any moment of the recovery from the first',
  },
  'disk-full': {
    scenario: 'good',
    refuses: 'full',
    sentence:
      'wherever the disk is full from, for one life: it fails clean or arrives, once, and something verified boots',
  },
  'disk-full-unhealthy': {
    scenario: 'unhealthy',
    refuses: 'full',
    sentence: 'wherever the disk is full from when what it installs is unhealthy: that is never committed',
  },
  'disk-tight': {
    scenario: 'good',
    refuses: 'tight',
    sentence: 'wherever nothing larger than a block fits any more from, though there seems to be room: the same',
  },
  'disk-broken': {
    scenario: 'good',
    refuses: 'broken',
    sentence: 'wherever the disk refuses every write and flush from, for one life: the same',
  },
  'disk-read-only': {
    scenario: 'good',
    refuses: 'read-only',
    sentence: 'wherever the disk can only be read from, for one life: the same',
  },
  'disk-read-only-unhealthy': {
    scenario: 'unhealthy',
    refuses: 'read-only',
    sentence: 'wherever the disk can only be read from when what it installs is unhealthy: that is never committed',
  },
};

/** All ways to die there; where the disk refuses, one after the other. */
export const everyDeath =
  ({ refuses }: What): Exploration['deaths'] =>
  (point) =>
    refuses === undefined ? DEATHS : [DEATHS[point % DEATHS.length]!];
