/**
 * A device whose slots an installer writes: what it is configured with, how it boots, and how releases for it are
 * packed.
 */
import type { Rig } from '../agent/slots/selectors/rigs.ts';

export type Board = {
  handler: string;
  rig: Pick<Rig, 'dir' | 'powerOn' | 'settings'>;
  /** `slots` of the agent's configuration, but for what every device here has. */
  slots: Record<string, unknown>;
  /** An image, packed for the installer. */
  pack(version: string, image: Buffer): Promise<Buffer>;
};
