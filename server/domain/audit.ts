/** Every sentence that the audit log can hold, in one place: as data (canonical JSON, what the Merkle leaf hashes) and in words. */
import type { DeviceErrorCode } from '#shared/deployment.ts';
import type { Id } from '#shared/ids.ts';
import type { Signed } from '#shared/messages.ts';
import type { HaltReason, Millis } from './rollout.ts';

export type AuditEvent = { at: Millis; by: string } & (
  | { kind: 'server-initialised'; rootSha256: string }
  | { kind: 'operator-created'; name: string; role: string }
  | { kind: 'operator-revoked'; name: string }
  | { kind: 'product-created'; product: Id; keys: string[] }
  | { kind: 'bundle-accepted'; product: Id; version: string; compatible: Id; manifest: string; keyId: string }
  | { kind: 'release-staged'; product: Id; version: string; channel: Id }
  | { kind: 'release-withdrawn'; product: Id; version: string; reason: string }
  | { kind: 'enrolment-tokens-created'; tokens: number; device: Id | null }
  | { kind: 'device-enrolled'; device: Id; publicKey: string; compatible: Id; state: 'pending' | 'accepted' }
  | { kind: 'device-accepted'; device: Id }
  | { kind: 'device-rejected'; device: Id }
  | { kind: 'device-tagged'; device: Id; tags: Record<string, string> }
  | { kind: 'cohort-created'; cohort: Id }
  | {
      kind: 'rollout-planned';
      rollout: Id;
      product: Id;
      version: string;
      devices: number;
      waveSizes: number[];
      excluded: number;
    }
  | { kind: 'rollout-started'; rollout: Id }
  | { kind: 'wave-opened'; rollout: Id; wave: number; why: string }
  | { kind: 'rollout-paused'; rollout: Id; note: string }
  | { kind: 'rollout-resumed'; rollout: Id; note: string }
  | { kind: 'rollout-halted'; rollout: Id; reason: HaltReason }
  | { kind: 'rollout-aborted'; rollout: Id; note: string }
  | { kind: 'rollout-completed'; rollout: Id }
  /** At most 500 devices a line. */
  | { kind: 'offered'; rollout: Id; wave: number; devices: Id[] }
  | { kind: 'withdrawn'; rollout: Id; devices: Id[]; reason: string }
  | { kind: 'skipped'; rollout: Id; devices: Id[] }
  | { kind: 'overdue'; rollout: Id; class: 'never-heard' | 'silent'; devices: Id[] }
  /** The device moved on by its own word. */
  | {
      kind: 'deployment-moved';
      rollout: Id;
      deployment: Id;
      device: Id;
      from: string;
      to: string;
      error?: DeviceErrorCode;
    }
  /** The device-signed proof, its signature checked before it came here. */
  | { kind: 'receipt'; device: Id; deployment: Id; receipt: Signed }
  | { kind: 'receipt-refused'; device: Id; why: string }
);
