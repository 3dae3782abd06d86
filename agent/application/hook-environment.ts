/** What hooks and command checks find in their environment: docs/agent.md has the table. */
import type { Running } from '#shared/deployment.ts';
import type { Manifest } from '#shared/manifest.ts';
import type { Journey } from '../domain/install-state.ts';
import { other, type SlotName, type Slots } from '../domain/slots.ts';
import type { ApplicationFiles } from './application-files.ts';

/** Of a version: what its application is told of itself. Stronger than what the manifest and the device's file say. */
const identityOf = (version: Pick<Running, 'product' | 'version'>, slot: SlotName | null): Record<string, string> => ({
  SLUICE_PRODUCT: version.product,
  SLUICE_VERSION: version.version,
  ...(slot === null ? {} : { SLUICE_SLOT: slot }),
});

/** Of the checks of a version: the environment of its application, as far as it can be read. */
export const checkEnvironment = async (
  version: Pick<Running, 'product' | 'version'>,
  run: Manifest['run'] | null | undefined,
  slot: SlotName,
  files: Pick<ApplicationFiles, 'environment' | 'dataDir'>,
): Promise<Record<string, string>> => {
  const added = await files.environment();
  return {
    ...run?.environment,
    ...(added.ok ? added.values : {}),
    SLUICE_DATA: files.dataDir,
    ...identityOf(version, slot),
  };
};

/** Of a hook: which deployment goes on, what was there before, and where both are. */
export const hookEnvironment = async (
  journey: Journey,
  slots: Pick<Slots, 'inspect' | 'workFolder'>,
  files: Pick<ApplicationFiles, 'dataDir' | 'secretsDir'>,
): Promise<Record<string, string>> => {
  const { install } = journey.offer;
  const inspected = await slots.inspect();
  const slot = 'slot' in journey ? journey.slot : null;
  const view = inspected.ok ? inspected.view : null;
  // After the commit the new slot is the active one; the other still holds what was there before.
  const before = slot === null ? (view?.active ?? null) : other(slot);
  const content = before === null ? undefined : view?.slots[before];
  const old = content?.state === 'bootable' ? content.running : null;
  return {
    SLUICE_DEPLOYMENT: install.deployment,
    ...identityOf(install, slot),
    ...(slot === null ? {} : { SLUICE_SLOT_FOLDER: slots.workFolder(slot) }),
    SLUICE_OLD_VERSION: old?.version ?? '',
    ...(old === null ? {} : { SLUICE_OLD_SLOT: old.slot, SLUICE_OLD_SLOT_FOLDER: slots.workFolder(old.slot) }),
    SLUICE_DATA: files.dataDir,
    SLUICE_SECRETS: files.secretsDir,
    ...('error' in journey ? { SLUICE_ERROR: journey.error.code } : {}),
  };
};
