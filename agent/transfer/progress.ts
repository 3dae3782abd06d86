/** How far a fetch has got. */

/** Of one deployment. `bytesFetched`: what came over the network since the agent started, useful or not. */
export type Progress = { bytesDone: number; bytesTotal: number; bytesFetched: number };
