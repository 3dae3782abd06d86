/**
 * The other end: a real `sluice serve` in a process of its own, CI that publishes to it, and an operator who rolls out
 * to one device.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { exportAudit, verifyAuditFile } from '#cli/commands/audit.ts';
import { makeKey } from '#cli/commands/key.ts';
import { checkBundle, publishRelease } from '#cli/publish.ts';
import { routes } from '#shared/api.ts';
import { createBundle } from '#shared/create-bundle.ts';
import { Compatible, Id, releaseRef, Version } from '#shared/ids.ts';
import type { Policy } from '#shared/policy.ts';
import { signerFromPem } from '#shared/trust/signers.ts';
import type { DeploymentView, DeviceView, RolloutView } from '#shared/views.ts';
import { startServerProcess } from '#test/server/process.ts';
import type { SlotImage } from './images.ts';

export const DEVICE = Id.parse('vm-01');
export const COMPATIBLE = Compatible.parse('pc-grub');
const PRODUCT = Id.parse('system');
const COHORT = Id.parse('everyone');

/** The only device decides: one failure halts. No one is late, since power is cut all the time. */
const POLICY: z.input<typeof Policy> = {
  judge: { rule: 'percentage-after-minimum', percent: 0, minimum: 1 },
  gate: { soakMs: 0 },
  deadlines: { outcomeMs: 4 * 3_600_000 },
  retries: { max: 5, coolDownMs: 1_000 },
  watch: { watchMs: 0 },
};

/** `system@1.2.0` */
export type Release = ReturnType<typeof releaseRef>;

export type Fleet = {
  httpPort: string;
  mqttPort: string;
  /** For the device's configuration. */
  enrolmentToken: string;
  /** Signs, uploads, publishes and stages it. */
  publish(image: SlotImage, isHealthy: boolean): Promise<Release>;
  rollOut(release: Release): Promise<Id>;
  rollout(id: Id): Promise<{ view: RolloutView; deployment: DeploymentView | undefined }>;
  abort(id: Id): Promise<void>;
  device(): Promise<DeviceView | undefined>;
  /** The whole log with all receipts, recomputed from its export. */
  verifyAudit(): ReturnType<typeof verifyAuditFile>;
  failure: Promise<never>;
  stop(): Promise<void>;
};

export const openFleet = async (work: string): Promise<Fleet> => {
  const { processes, httpUrl, mqttUrl, client: admin } = await startServerProcess(work);

  const key = await makeKey(join(work, 'ci.pem'), 'ed25519');
  const signer = signerFromPem(await readFile(key.privateFile, 'utf8'));
  if (!signer.ok) throw new Error(signer.detail);
  await admin.call(routes.productCreate, { body: { name: PRODUCT, keys: [key.publicPem] } });
  await admin.call(routes.cohortCreate, { body: { name: COHORT, selector: `compatible=${COMPATIBLE}` } });
  const { tokens } = await admin.call(routes.enrolmentTokenCreate, { body: { device: DEVICE } });

  return {
    httpPort: new URL(httpUrl).port,
    mqttPort: new URL(mqttUrl).port,
    enrolmentToken: tokens[0]!,
    publish: async (image, isHealthy) => {
      const out = join(work, `${image.version}.sluice`);
      const checks = isHealthy ? [] : [{ kind: 'command' as const, command: ['false'] }];
      const bundle = await createBundle({
        manifest: {
          product: PRODUCT,
          version: Version.parse(image.version),
          compatible: COMPATIBLE,
          securityCounter: 1,
          health: { checks, soakMs: 1_000, deadlineMs: isHealthy ? 3_600_000 : 20_000, intervalMs: 200 },
        },
        artifacts: [{ name: 'system', file: image.file, install: { kind: 'image' } }],
        out,
      });
      if (!bundle.ok) throw new Error(bundle.detail);
      const steps = {
        checking: (file: string) => checkBundle(file),
        sending: (_: unknown, send: (onProgress: () => void) => Promise<void>) => send(() => {}),
        again: () => {},
      };
      await publishRelease(admin, { files: [out], signer: signer.value, now: Date.now }, steps);
      await rm(out);
      const release = releaseRef(PRODUCT, image.version);
      await admin.call(routes.releaseStage, { params: { release }, body: { channel: Id.parse('production') } });
      return release;
    },
    rollOut: async (release) => {
      const body = { release, cohorts: [{ cohort: COHORT }], policy: POLICY };
      return (await admin.call(routes.rolloutCreate, { body })).id;
    },
    rollout: async (rollout) => {
      const params = { rollout };
      const view = await admin.call(routes.rolloutShow, { params });
      const { items } = await admin.call(routes.rolloutDeployments, { params });
      return { view, deployment: items[0] };
    },
    abort: async (rollout) => {
      await admin.call(routes.rolloutAbort, { params: { rollout }, body: { note: 'it has ended' } });
    },
    device: async () => (await admin.call(routes.deviceList, {})).items[0],
    verifyAudit: async () => {
      const file = join(work, 'audit.ndjson');
      await exportAudit(admin, file);
      return verifyAuditFile(file);
    },
    failure: processes.failure,
    stop: () => processes.stop(),
  };
};
