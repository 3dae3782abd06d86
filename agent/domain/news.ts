/** What the parts of the agent tell each other. */
import type { EventEmitter } from 'node:events';

/**
 * Told by the parts that do something, heard by those that speak for the agent and are opened last: `reported` is for
 * the server, `shown` for local programs, `entered` is the sentence about a state that was entered, `installed` what an
 * installer says of its work.
 */
export type News = EventEmitter<{
  reported: [];
  shown: [];
  entered: [sentence: string];
  installed: [bytesDone: number, bytesTotal: number];
}>;
